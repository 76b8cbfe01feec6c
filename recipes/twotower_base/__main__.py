"""Command line of the recipe."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from recipes.twotower_base.recipe import round_twotower_base
from twotower.errors import TwotowerError


def main() -> int:
    """Make the model of the arguments; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.twotower_base", description="Round the default bundled model."
    )
    parser.add_argument("photographs", type=Path, help="a folder of tars of photographs")
    parser.add_argument("text", type=Path, help="the model directory with the text tower")
    parser.add_argument("destination", type=Path, help="the model directory to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        round_twotower_base(arguments.photographs, arguments.text, arguments.destination)
    except (TwotowerError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.destination}: written; assemble the bundled models with recipes.bundle")
    return 0


if __name__ == "__main__":
    sys.exit(main())
