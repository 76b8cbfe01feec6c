"""`twotower classify`: find out which of your words each picture shows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.output import (
    FAILED,
    OK,
    add_arch_option,
    add_model_options,
    positive,
    print_array,
    printable,
    track,
)

if TYPE_CHECKING:
    from twotower.asking.classify import Classified
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "classify", help="find out which of your words each picture shows"
    )
    command.set_defaults(run=run_classify)
    command.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures or folders")
    command.add_argument(
        "--labels", required=True, help='words ("cat, dog, car") or a file with one on each line'
    )
    command.add_argument(
        "--templates", help='a sentence with {} for the label, or "plain", "photo" or "ensemble"'
    )
    command.add_argument("--top", type=positive, default=5, help="labels for a picture (5)")
    command.add_argument(
        "--none", action="store_true", help='add "none of these", for pictures of something else'
    )
    command.add_argument("--json", action="store_true", help="print one JSON array")
    add_model_options(command)
    add_arch_option(command)


def run_classify(arguments: argparse.Namespace) -> int:
    from twotower.asking.classify import classify
    from twotower.encode.load import load
    from twotower.inputs.pictures import find_pictures

    labels = read_labels(arguments.labels)
    pictures = find_pictures(arguments.pictures)
    model = load(arguments.model, engine=arguments.engine, arch=arguments.arch)
    answers = classify(
        pictures,
        labels,
        model=model,
        templates=arguments.templates,
        top=arguments.top,
        none=arguments.none,
    )
    print_answers = print_json if arguments.json else print_lines
    failed = print_answers(track(answers, "Classifying", len(pictures)))
    return FAILED if failed else OK


def read_labels(text: str) -> list[str]:
    """Parse `--labels`: words between commas, or a file with a label on each line."""
    from twotower.errors import LabelError

    remedy = "give words, or a file with a label on each line"
    path = Path(text)
    if not _is_file(path):
        if path.suffix in (".txt", ".csv"):
            raise LabelError(text, "no such label file", remedy)
        if text in (".", "..") or text.endswith("/"):
            raise LabelError(text, "a folder, not a label file", remedy)
        return text.split(",")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LabelError(text, "not UTF-8 text", "save it as UTF-8") from None
    labels = [line for line in lines if line.strip()]
    if not labels:
        raise LabelError(text, "an empty label file", remedy)
    return labels


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a list of words can be longer than any file name
        return False


def print_json(answers: Iterable[Classified]) -> int:
    """Print a JSON object for each answer. Returns the number of errors."""
    return print_array(map(_tree, answers))


def _tree(answer: Classified) -> dict[str, Any]:
    return {
        "path": str(answer.source),
        "labels": [asdict(label) for label in answer.labels],
        "error": str(answer.error) if answer.error else None,
    }


def print_lines(answers: Iterable[Classified]) -> int:
    """Print a line for each picture on stdout, and errors on stderr.

    Returns:
        The number of errors.
    """
    failed = 0
    for answer in answers:
        if answer.error:
            failed += 1
            print(f"twotower: {printable(str(answer.error))}", file=sys.stderr)
        else:
            labels = "  ".join(f"{label.label} {label.probability:.0%}" for label in answer.labels)
            print(f"{printable(str(answer.source))}  {labels}", flush=True)
    return failed
