"""Command line of the recipe."""

import sys

from recipes.command_line import run_recipe
from recipes.twotower_base.recipe import round_twotower_base


def main() -> int:
    """Run the recipe with the paths of the command line; return the exit code."""
    paths = {
        "photographs": "a folder of tars of photographs",
        "text": "the model directory with the text tower",
        "destination": "the model directory to write",
    }
    return run_recipe(
        "twotower_base",
        "Round the default bundled model.",
        paths,
        round_twotower_base,
        "assemble the bundled models with recipes.bundle",
    )


if __name__ == "__main__":
    sys.exit(main())
