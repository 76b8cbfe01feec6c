"""`twotower evaluate`: numbers about an encoder, with intervals."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.classify import read_labels
from twotower.cli.output import FAILED, OK, add_model_options, positive, print_broken, progress

if TYPE_CHECKING:
    from twotower.cli.output import Commands

LABELLED = (
    "a folder of class folders, tars with .json or .cls, a .csv, .parquet or .npz file "
    "(docs/evaluation.md)"
)


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("evaluate", help="numbers about a model, with intervals")
    tasks = command.add_subparsers(required=True, metavar="TASK")

    command = tasks.add_parser("zero-shot", help="classify a labelled set by its classes' names")
    command.set_defaults(run=run_zero_shot)
    command.add_argument("data", help=LABELLED)
    _add_labelled_options(command)
    _add_shared_options(command)

    command = tasks.add_parser("retrieval", help="find pictures by their captions, and back")
    command.set_defaults(run=run_retrieval)
    command.add_argument("data", help="a folder of pictures with captions beside, tars or a table")
    _add_shared_options(command)


def _add_labelled_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--classes", help="names of the classes: a file with one on each line, or words"
    )
    command.add_argument(
        "--templates",
        help='a sentence with {}, or "plain", "photo", "ensemble" or "imagenet" '
        "(those published for the set, else the model's)",
    )
    command.add_argument(
        "--root", type=Path, help="where the paths of a table start (beside the table)"
    )


def _add_shared_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--as", dest="known", metavar="SET", help="the published set that this is")
    command.add_argument("--limit", type=positive, help="only so many pictures, drawn at random")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="add a line for each number to a table"
    )
    command.add_argument("--report", type=Path, metavar="DIR", help="write a page: DIR/index.html")
    add_model_options(command)
    command.epilog = "MODEL may also be two ONNX graphs (a.onnx,b.onnx) or package.module:object."


def run_zero_shot(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.zero_shot import evaluate_zero_shot

    labelled = _open_labelled(arguments, arguments.data)
    model = open_model(arguments.model, arguments.engine)
    result = evaluate_zero_shot(model, labelled, _templates(arguments, model), progress)
    return _finish(arguments, result)


def run_retrieval(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.registry import find_set
    from twotower.evaluate.retrieval import evaluate_retrieval, open_captions

    known = find_set(arguments.known) if arguments.known else None
    source = open_captions(arguments.data)
    model = open_model(arguments.model, arguments.engine)
    result = evaluate_retrieval(model, source, known, arguments.limit, progress)
    return _finish(arguments, result)


def _open_labelled(arguments: argparse.Namespace, location: str) -> Any:
    from twotower.evaluate.sets import open_set

    classes = read_labels(arguments.classes) if arguments.classes else None
    labelled = open_set(location, classes, arguments.known, arguments.root)
    return labelled.sample(arguments.limit) if arguments.limit else labelled


def _templates(arguments: argparse.Namespace, model: Any) -> tuple[str, ...] | None:
    from twotower.encode.classify import check_templates

    return check_templates(arguments.templates, model) if arguments.templates else None


# --- what is shown -------------------------------------------------------------------------------


def _finish(arguments: argparse.Namespace, result: dict[str, Any]) -> int:
    print_broken(result["unreadable"])
    if arguments.csv:
        _add_to_table(arguments.csv, result)
    print(to_json(result) if arguments.json else "\n".join(to_lines(result)))
    return FAILED if result["unreadable"] else OK


def to_json(result: dict[str, Any]) -> str:
    """Valid JSON (NaN is null), a line for each key of the outermost object."""
    lines = [
        f" {json.dumps(key)}: {json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)}"
        for key, value in result.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def to_lines(result: dict[str, Any]) -> list[str]:
    """A result for people."""
    from twotower.evaluate.numbers import numbers, set_line

    model = result["configuration"]["model"]
    fingerprint = model.get("fingerprint") or "no fingerprint"
    rows = [(number.title, str(number)) for number in numbers(result)]
    width = max(len(title) for title, _ in rows)
    lines = [set_line(result), f"{model['name']} ({fingerprint[:12]})"]
    lines += [f"  {title:{width}}  {value}" for title, value in rows]
    for one in result["published"]:
        note = "" if one["whole_set"] else ", which is on the whole set: not comparable"
        lines.append(
            f"  {one['measure']} of {one['model']}: "
            f"published {one['published']:.2%}{note}, here {one['here']:.1%}"
        )
    return lines


def _add_to_table(path: Path, result: dict[str, Any]) -> None:
    """Append a row for each number; the head comes with the first."""
    from twotower.evaluate.numbers import numbers

    model = result["configuration"]["model"]
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("set", "measure", "n", "value", "low", "high", "model", "fingerprint"))
        for one in numbers(result):
            figures = (f"{value:.4f}" for value in (one.value, one.low, one.high))
            about = (model["name"], (model.get("fingerprint") or "")[:12])
            writer.writerow((result["set"]["title"], one.measure, one.n, *figures, *about))
