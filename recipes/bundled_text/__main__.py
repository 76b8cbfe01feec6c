"""Command line of the recipe."""

import sys

from recipes.bundled_text.recipe import add_lexicon
from recipes.command_line import run_recipe


def main() -> int:
    """Run the recipe with the paths of the command line; return the exit code."""
    paths = {
        "data": "the folder of data (docs/model-card.md)",
        "sentence_model": "the unpacked all-mpnet-base-v2",
        "model": "the model directory",
        "destination": "the model directory to write",
    }
    return run_recipe(
        "bundled_text",
        "Add a lexicon to a text tower.",
        paths,
        add_lexicon,
        "assemble the bundled models with recipes.bundle",
    )


if __name__ == "__main__":
    sys.exit(main())
