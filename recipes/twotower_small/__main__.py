"""Command line of the recipe."""

import sys

from recipes.command_line import run_recipe
from recipes.twotower_small.recipe import train_twotower_small


def main() -> int:
    """Run the recipe with the paths of the command line; return the exit code."""
    paths = {
        "data": "the folder of data (docs/model-card.md)",
        "destination": "the model directory to write",
    }
    return run_recipe(
        "twotower_small",
        "Train the quick bundled model.",
        paths,
        train_twotower_small,
        "try it with --model",
    )


if __name__ == "__main__":
    sys.exit(main())
