"""Command line of the recipe."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from recipes.twotower_small.recipe import train_twotower_small
from twotower.errors import TwotowerError


def main() -> int:
    """Train the model of the arguments; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.twotower_small", description="Train the bundled model."
    )
    parser.add_argument("data", type=Path, help="the folder of data (docs/model-card.md)")
    parser.add_argument("destination", type=Path, help="the model directory to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        train_twotower_small(arguments.data, arguments.destination)
    except (TwotowerError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments.destination}: written; try it with --model {arguments.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
