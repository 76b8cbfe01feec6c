"""`twotower evaluate`: measure a model, with confidence intervals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.classify import read_labels
from twotower.cli.output import (
    FAILED,
    OK,
    add_model_options,
    escape_json,
    positive,
    print_failures,
    show_progress,
)

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.evaluate.sets import LabelledSet
    from twotower.inputs.pictures import Picture

LABELLED = (
    "a folder of class folders, tars with .json or .cls, or a .csv, .parquet or .npz file "
    "(docs/evaluation.md)"
)


# --- options -------------------------------------------------------------------------------------


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("evaluate", help="measure a model, with confidence intervals")
    tasks = command.add_subparsers(required=True, metavar="TASK")

    command = tasks.add_parser("zero-shot", help="classify a labelled set by its class names")
    command.set_defaults(run=run_zero_shot)
    command.add_argument("data", help=LABELLED)
    _add_labelled_options(command)
    _add_shared_options(command)

    command = tasks.add_parser("retrieval", help="find pictures by captions, captions by pictures")
    command.set_defaults(run=run_retrieval)
    command.add_argument(
        "data", help="a folder of pictures with caption files beside them, tars, or a table"
    )
    _add_shared_options(command)

    _add_probe(tasks)
    _add_robustness(tasks)

    command = tasks.add_parser("compare", help="compare two --json results on the same pictures")
    command.set_defaults(run=run_compare)
    command.add_argument("first_file", metavar="FIRST", type=Path)
    command.add_argument("second_file", metavar="SECOND", type=Path)
    command.add_argument("--json", action="store_true", help="print the result as JSON")

    command = tasks.add_parser("sets", help="list public sets and the addresses to obtain them")
    command.set_defaults(run=run_sets)


def _add_probe(tasks: Commands) -> None:
    command = tasks.add_parser("probe", help="linear probe, few shots and Tip-Adapter")
    command.set_defaults(run=run_probe)
    command.add_argument("data", help=f"{LABELLED}; or a folder with train, test and perhaps val")
    command.add_argument("--test", help="a set to test on (default: a fifth of DATA, held out)")
    command.add_argument(
        "--val", help="a set to choose settings on (default: a fifth of DATA, held out)"
    )
    command.add_argument(
        "--shots",
        type=_positives,
        default=[1, 2, 4, 8, 16],
        help="numbers of pictures of each class (default: 1,2,4,8,16)",
    )
    _add_labelled_options(command)
    _add_shared_options(command)


def _add_robustness(tasks: Commands) -> None:
    command = tasks.add_parser("robustness", help="accuracy on other sets and corrupted pictures")
    command.set_defaults(run=run_robustness)
    command.add_argument("data", help=LABELLED)
    command.add_argument(
        "shifted", metavar="SET", nargs="*", help="a set of other pictures that shares its classes"
    )
    command.add_argument(
        "--corruptions",
        help='kinds or families, such as "noise,jpeg"; "all" or "none" '
        "(default: all, or none if other sets are given)",
    )
    command.add_argument(
        "--severities",
        type=_severities,
        default=[1, 2, 3, 4, 5],
        help="from 1 to 5 (default: 1,2,3,4,5)",
    )
    _add_labelled_options(command)
    _add_shared_options(command)


def _add_labelled_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--classes", help="names of the classes: a file with one on each line, or words"
    )
    command.add_argument(
        "--templates",
        help='a sentence with {}, or "plain", "photo", "ensemble" or "imagenet" '
        "(default: those published for the set, or the model's)",
    )
    command.add_argument(
        "--root",
        type=Path,
        help="the folder that paths in a table are relative to (default: the table's)",
    )


def _add_shared_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--as", dest="set_key", metavar="SET", help="the public set that DATA is")
    command.add_argument(
        "--limit", type=positive, help="use this many pictures, drawn at random (default: all)"
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="append a row for each measure to a table"
    )
    command.add_argument("--report", type=Path, metavar="DIR", help="write a page: DIR/index.html")
    add_model_options(command)
    command.epilog = "MODEL may also be two ONNX graphs (a.onnx,b.onnx) or package.module:object."


def _positives(text: str) -> list[int]:
    return [positive(word) for word in text.split(",")]


def _severities(text: str) -> list[int]:
    severities = _positives(text)
    if max(severities) > 5:
        raise argparse.ArgumentTypeError(f"{max(severities)} is more than 5")
    return severities


# --- commands ------------------------------------------------------------------------------------


def run_zero_shot(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.zero_shot import evaluate_zero_shot

    _create_outputs(arguments)
    labelled = _open_labelled(arguments, arguments.data)
    model = open_model(arguments.model, arguments.engine)
    with show_progress("Evaluating") as report:
        result = evaluate_zero_shot(model, labelled, _templates(arguments, model), report)
    return _write_outputs(arguments, result, _picture_finder(labelled))


def run_retrieval(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.registry import find_set
    from twotower.evaluate.retrieval import evaluate_retrieval, open_captions, source_keys

    _create_outputs(arguments)
    public_set = find_set(arguments.set_key) if arguments.set_key else None
    source = open_captions(arguments.data)
    model = open_model(arguments.model, arguments.engine)
    with show_progress("Evaluating") as report:
        result = evaluate_retrieval(model, source, public_set, arguments.limit, report)
    numbers = {key: number for number, key in enumerate(source_keys(source))}
    return _write_outputs(arguments, result, lambda key: source[numbers[key]].picture)


def run_probe(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.models import open_model
    from twotower.evaluate.probe import Split, evaluate_probe, open_split

    _create_outputs(arguments)
    options = _set_options(arguments)
    split = open_split(arguments.data, arguments.test, arguments.val, **options)
    if arguments.limit:
        sets = (split.train, split.validation, split.test)
        split = Split(*(labelled.sample(arguments.limit) for labelled in sets))
    model = open_model(arguments.model, arguments.engine)
    templates = _templates(arguments, model)
    with show_progress("Evaluating") as report:
        result = evaluate_probe(model, split, arguments.shots, templates, report)
    return _write_outputs(arguments, result, _picture_finder(split.test))


def run_robustness(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.corruptions import choose_kinds
    from twotower.evaluate.models import open_model
    from twotower.evaluate.robustness import evaluate_robustness

    _create_outputs(arguments)
    words = arguments.corruptions or ("none" if arguments.shifted else "all")
    kinds = choose_kinds([] if words == "none" else [word.strip() for word in words.split(",")])
    labelled = _open_labelled(arguments, arguments.data)
    shifted_sets = [_open_labelled(arguments, location) for location in arguments.shifted]
    model = open_model(arguments.model, arguments.engine)
    templates = _templates(arguments, model)
    with show_progress("Evaluating") as report:
        result = evaluate_robustness(
            model, labelled, shifted_sets, kinds, arguments.severities, templates, report
        )
    return _write_outputs(arguments, result, _picture_finder(labelled))


def run_compare(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.compare import compare, read_result
    from twotower.evaluate.results import measure_title, result_to_json, summarize_set

    result = compare(read_result(arguments.first_file), read_result(arguments.second_file))
    if arguments.json:
        print(escape_json(result_to_json(result)))
        return OK
    print(summarize_set(result))
    print(f"{result['models'][0]} minus {result['models'][1]}")
    for row in result["differences"]:
        low, high = row["ci95"]
        print(
            f"  {measure_title(row['measure'].split('.'))}: "
            f"{row['first']:.1%} - {row['second']:.1%} = "
            f"{100 * row['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), "
            f"p = {row['p']:.2g}"
        )
    return OK


def run_sets(arguments: argparse.Namespace) -> int:
    from twotower.evaluate.registry import public_sets

    for key, public_set in public_sets().items():
        print(f"{key:16} {public_set.pictures:6} {public_set.title}: {public_set.obtain}")
    return OK


def _create_outputs(arguments: argparse.Namespace) -> None:
    """Create the folder or file for the results, so that an error comes before the work."""
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
    if arguments.csv:
        arguments.csv.open("a").close()


def _open_labelled(arguments: argparse.Namespace, location: str) -> LabelledSet:
    from twotower.evaluate.sets import open_set

    labelled = open_set(location, **_set_options(arguments))
    return labelled.sample(arguments.limit) if arguments.limit else labelled


def _set_options(arguments: argparse.Namespace) -> dict[str, Any]:
    classes = read_labels(arguments.classes) if arguments.classes else None
    return {"classes": classes, "set_key": arguments.set_key, "root": arguments.root}


def _templates(arguments: argparse.Namespace, model: Any) -> tuple[str, ...] | None:
    from twotower.encode.classify import check_templates

    return check_templates(arguments.templates, model) if arguments.templates else None


def _picture_finder(labelled: LabelledSet) -> Callable[[str], Picture]:
    numbers = {key: number for number, key in enumerate(labelled.keys)}
    return lambda key: labelled.pictures[numbers[key]]


# --- output --------------------------------------------------------------------------------------


def _write_outputs(
    arguments: argparse.Namespace, result: dict[str, Any], find_picture: Callable[[str], Picture]
) -> int:
    from twotower.evaluate.results import append_csv, result_to_json

    print_failures(result["unreadable"])
    if arguments.csv:
        append_csv(arguments.csv, result)
    if arguments.report:
        from twotower.evaluate.report import write_report

        page = write_report(result, arguments.report, find_picture)
        print(f"Wrote {page}", file=sys.stderr)
    text = escape_json(result_to_json(result)) if arguments.json else None
    print(text or "\n".join(format_result(result)))
    return FAILED if result["unreadable"] else OK


def format_result(result: dict[str, Any]) -> list[str]:
    """Return the lines of a result for people."""
    from twotower.evaluate.results import measurements, subset_warning, summarize_set

    model = result["configuration"]["model"]
    rows = [(row.title, str(row)) for row in measurements(result)]
    width = max(len(title) for title, _ in rows)
    lines = [summarize_set(result), f"{model['name']} {(model.get('fingerprint') or '')[:12]}"]
    if warning := subset_warning(result):
        lines.append(f"  ({warning})")
    lines += [f"  {title:{width}}  {value}" for title, value in rows]
    for figure in result["published"]:
        warning = "" if figure["whole_set"] else " for the whole set: not comparable"
        lines.append(
            f"  {figure['measure']} of {figure['model']}: "
            f"published {figure['published']:.2%}{warning}, here {figure['here']:.1%}"
        )
    return lines
