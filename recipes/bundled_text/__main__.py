"""Command line of the recipe."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from recipes.bundled_text.recipe import add_lexicon
from twotower.errors import TwotowerError


def main() -> int:
    """Add a lexicon to the model of the arguments; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.bundled_text", description="Add a lexicon to a text tower."
    )
    parser.add_argument("data", type=Path, help="the folder of data (docs/model-card.md)")
    parser.add_argument("sentence_model", type=Path, help="the unpacked all-mpnet-base-v2")
    parser.add_argument("model", type=Path, help="the model directory")
    parser.add_argument("destination", type=Path, help="the model directory to write")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("recipes").setLevel(logging.INFO)
    try:
        add_lexicon(
            arguments.data, arguments.sentence_model, arguments.model, arguments.destination
        )
    except (TwotowerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.destination}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
