"""`twotower evaluate`: numbers about an encoder, with intervals."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.classify import read_labels
from twotower.cli.output import FAILED, OK, add_model_options, positive, print_broken, progress

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.evaluate.sets import LabelledSet
    from twotower.inputs.pictures import Picture

LABELLED = (
    "a folder of class folders, tars with .json or .cls, a .csv, .parquet or .npz file "
    "(docs/evaluation.md)"
)
COLUMNS = ("set", "measure", "n", "value", "low", "high", "model", "fingerprint", "templates")


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

    command = tasks.add_parser("probe", help="linear probe, few shots and Tip-Adapter")
    command.set_defaults(run=run_probe)
    command.add_argument("data", help=f"{LABELLED}; or a folder with train, test and perhaps val")
    command.add_argument("--test", help="a set to test on (a fifth of the first, held out)")
    command.add_argument("--val", help="a set to choose settings by (a fifth, likewise)")
    command.add_argument(
        "--shots", type=_positives, default=[1, 2, 4, 8, 16], help="of each class (1,2,4,8,16)"
    )
    _add_labelled_options(command)
    _add_shared_options(command)

    command = tasks.add_parser("robustness", help="accuracy on other sets and corrupted pictures")
    command.set_defaults(run=run_robustness)
    command.add_argument("data", help=LABELLED)
    command.add_argument("others", nargs="*", help="sets of other pictures that share its classes")
    command.add_argument(
        "--corruptions",
        help='kinds or families, such as "noise,jpeg"; "all" or "none" '
        "(all, or none where other sets are given)",
    )
    command.add_argument(
        "--severities", type=_severities, default=[1, 2, 3, 4, 5], help="of 1 to 5 (1,2,3,4,5)"
    )
    _add_labelled_options(command)
    _add_shared_options(command)

    command = tasks.add_parser("compare", help="two results of --json on the same pictures")
    command.set_defaults(run=run_compare)
    command.add_argument("first", type=Path)
    command.add_argument("second", type=Path)
    command.add_argument("--json", action="store_true", help="print the result as JSON")

    command = tasks.add_parser("sets", help="known sets, and where to obtain them")
    command.set_defaults(run=run_sets)


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

    _make_room(arguments)
    labelled = _open_labelled(arguments, arguments.data)
    model = open_model(arguments.model, arguments.engine)
    result = evaluate_zero_shot(model, labelled, _templates(arguments, model), progress)
    return _finish(arguments, result, _labelled_pictures(labelled))


def run_retrieval(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.registry import find_set
    from twotower.evaluate.retrieval import evaluate_retrieval, open_captions, source_keys

    _make_room(arguments)
    known = find_set(arguments.known) if arguments.known else None
    source = open_captions(arguments.data)
    model = open_model(arguments.model, arguments.engine)
    result = evaluate_retrieval(model, source, known, arguments.limit, progress)
    number = {key: place for place, key in enumerate(source_keys(source))}
    return _finish(arguments, result, lambda key: source[number[key]].picture)


def run_probe(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.probe import Split, evaluate_probe, open_split

    _make_room(arguments)
    options = _set_options(arguments)
    split = open_split(arguments.data, arguments.test, arguments.val, **options)
    if arguments.limit:
        parts = (split.train, split.validation, split.test)
        split = Split(*(one.sample(arguments.limit) for one in parts))
    model = open_model(arguments.model, arguments.engine)
    templates = _templates(arguments, model)
    result = evaluate_probe(model, split, arguments.shots, templates, progress)
    return _finish(arguments, result, _labelled_pictures(split.test))


def run_robustness(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.corruptions import choose_kinds
    from twotower.evaluate.models import open_model
    from twotower.evaluate.robustness import evaluate_robustness

    _make_room(arguments)
    words = arguments.corruptions or ("none" if arguments.others else "all")
    kinds = choose_kinds([] if words == "none" else [word.strip() for word in words.split(",")])
    labelled = _open_labelled(arguments, arguments.data)
    others = [_open_labelled(arguments, other) for other in arguments.others]
    model = open_model(arguments.model, arguments.engine)
    result = evaluate_robustness(
        model,
        labelled,
        others,
        kinds,
        arguments.severities,
        _templates(arguments, model),
        progress,
    )
    return _finish(arguments, result, _labelled_pictures(labelled))


def run_compare(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.compare import compare, read_result
    from twotower.evaluate.result_rows import set_line, title

    result = compare(read_result(arguments.first), read_result(arguments.second))
    if arguments.json:
        print(to_json(result))
        return OK
    print(set_line(result))
    print(f"{result['models'][0]} less {result['models'][1]}")
    for row in result["differences"]:
        low, high = row["ci95"]
        print(
            f"  {title(row['measure'].split('.'))}: {row['first']:.1%} - {row['second']:.1%} = "
            f"{100 * row['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), "
            f"p = {row['p']:.2g}"
        )
    return OK


def run_sets(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.registry import known_sets

    for key, known in known_sets().items():
        print(f"{key:16} {known.pictures:6} {known.title}: {known.obtain}")
    return OK


def _positives(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


def _severities(text: str) -> list[int]:
    chosen = _positives(text)
    if max(chosen) > 5:
        raise argparse.ArgumentTypeError(f"{max(chosen)} is more than 5")
    return chosen


def _open_labelled(arguments: argparse.Namespace, location: str) -> LabelledSet:
    from twotower.evaluate.sets import open_set

    labelled = open_set(location, **_set_options(arguments))
    return labelled.sample(arguments.limit) if arguments.limit else labelled


def _make_room(arguments: argparse.Namespace) -> None:
    """Fail now, and not after an hour of work, where the results cannot be written."""
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
    if arguments.csv:
        arguments.csv.open("a").close()


def _set_options(arguments: argparse.Namespace) -> dict[str, Any]:
    classes = read_labels(arguments.classes) if arguments.classes else None
    return {"classes": classes, "known": arguments.known, "root": arguments.root}


def _templates(arguments: argparse.Namespace, model: Any) -> tuple[str, ...] | None:
    from twotower.encode.classify import check_templates

    return check_templates(arguments.templates, model) if arguments.templates else None


# --- what is shown -------------------------------------------------------------------------------


def _labelled_pictures(labelled: LabelledSet) -> Callable[[str], Picture]:
    number = {key: place for place, key in enumerate(labelled.keys)}
    return lambda key: labelled.pictures[number[key]]


def _finish(
    arguments: argparse.Namespace, result: dict[str, Any], find: Callable[[str], Picture]
) -> int:
    print_broken(result["unreadable"])
    if arguments.csv:
        _add_to_table(arguments.csv, result)
    if arguments.report:
        from twotower.evaluate.report import write_report

        page = write_report(result, arguments.report, find)
        print(f"{page}: written", file=sys.stderr)
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
    from twotower.evaluate.result_rows import not_the_whole, numbers, set_line

    model = result["configuration"]["model"]
    rows = [(number.title, str(number)) for number in numbers(result)]
    width = max(len(title) for title, _ in rows)
    lines = [set_line(result), f"{model['name']} {(model.get('fingerprint') or '')[:12]}"]
    if note := not_the_whole(result):
        lines.append(f"  ({note})")
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
    from twotower.evaluate.result_rows import numbers

    model = result["configuration"]["model"]
    templates = result["configuration"].get("templates", [])
    prompts = templates[0] if len(templates) == 1 else f"{len(templates)}" if templates else ""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for one in numbers(result):
            figures = (f"{value:.4f}" for value in (one.value, one.low, one.high))
            about = (model["name"], (model.get("fingerprint") or "")[:12], prompts)
            writer.writerow((result["set"]["title"], one.measure, one.n, *figures, *about))
