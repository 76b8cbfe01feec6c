"""The command lines of the recipes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from twotower.errors import TwotowerError


def run_recipe(
    name: str, description: str, paths: Mapping[str, str], make: Callable[..., None], hint: str
) -> int:
    """Parse the paths of a command line, call `make` with them, and return the exit code.

    Args:
        name: of the package of the recipe.
        paths: the help text of each path, by its name; the last one is the result.
        hint: printed after the result is written.
    """
    parser = argparse.ArgumentParser(prog=f"python -m recipes.{name}", description=description)
    for path, text in paths.items():
        parser.add_argument(path, type=Path, help=text)
    arguments = vars(parser.parse_args())
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("recipes").setLevel(logging.INFO)
    try:
        make(*arguments.values())
    except (TwotowerError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    *_, result = arguments.values()
    print(f"{result}: written; {hint}")
    return 0
