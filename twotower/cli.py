"""The command `twotower`: the only place that prints or exits."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower import __version__

if TYPE_CHECKING:
    from twotower.encode.classify import Classified

OK, FAILED, INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or 1 where something could not be done (the rest is), or 130 after Ctrl-C. Wrong usage
        exits with 2 by itself.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names as the bytes that they are
    arguments = build_parser().parse_args(argv)
    warnings.showwarning = _print_warning  # type: ignore[assignment]
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stdout = None  # so that nothing is flushed into it at exit
        return OK
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not type(error).__module__.startswith("twotower"):
            raise  # not a mistake of the user's but one of ours
        print(f"twotower: {_one_line(error)}", file=sys.stderr)
        return FAILED


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="twotower", description="Pictures and words in one space: CLIP, offline and light."
    )
    parser.add_argument("--version", action="version", version=f"twotower {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("classify", help="say which of your words each picture shows")
    command.set_defaults(run=run_classify)
    command.add_argument("pictures", nargs="+", metavar="PICTURE", help="pictures or folders")
    command.add_argument(
        "--labels", required=True, help='words ("cat, dog, car") or a file with one on each line'
    )
    command.add_argument(
        "--templates", help='a sentence with {} for the label, or "plain", "photo" or "ensemble"'
    )
    command.add_argument("--top", type=_positive, default=5, help="labels for a picture (5)")
    command.add_argument(
        "--none", action="store_true", help='add "none of these", for pictures of something else'
    )
    command.add_argument("--json", action="store_true", help="print one JSON array")
    _add_model_options(command)

    command = commands.add_parser("convert", help="turn anybody's CLIP or SigLIP into another form")
    command.set_defaults(run=run_convert)
    command.add_argument("source", help="a model directory, an OpenAI .pt file or hf-hub:org/name")
    command.add_argument("destination", type=Path, help="the directory to make")
    command.add_argument(
        "--to",
        choices=("twotower", "transformers", "open_clip"),
        default="twotower",
        help="the form to write (twotower)",
    )

    command = commands.add_parser("verify", help="check a model against its golden vectors")
    command.set_defaults(run=run_verify)
    _add_model_options(command, positional=True)

    command = commands.add_parser("pairs", help="image-text pairs: pack and count them")
    tools = command.add_subparsers(required=True, metavar="TOOL")
    text = "a tar, a pattern of tars, a table, or a folder with captions beside the pictures"
    command = tools.add_parser("pack", help="write tar shards")
    command.set_defaults(run=run_pairs_pack)
    command.add_argument("source", help=text)
    command.add_argument("destination", type=Path, help="a new folder")
    command.add_argument("--per-shard", type=_positive, default=10_000, help="pairs (10000)")
    command = tools.add_parser("stats", help="count pairs, sizes, captions and what is broken")
    command.set_defaults(run=run_pairs_stats)
    command.add_argument("source", help=text)

    command = commands.add_parser("train", help="train a model")
    recipes = command.add_subparsers(required=True, metavar="RECIPE")
    command = recipes.add_parser("pretrain", help="train on image-text pairs")
    command.set_defaults(run=run_train_pretrain)
    command.add_argument("pairs", nargs="+", help=f"{text} (several: several sources)")
    command.add_argument("--run", type=Path, required=True, dest="folder", help="the run's folder")
    command.add_argument("--model", default="ViT-B-32", help="a preset, or a model to start from")
    command.add_argument("--batch-size", type=_positive, default=1024, help="of all ranks (1024)")
    command.add_argument("--steps", type=_positive, help="(32 epochs)")
    command.add_argument("--memory", type=_bytes, help="what a rank may take, such as 8GB")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings"
    )
    command.add_argument("--resume", metavar="CHECKPOINT", help='a checkpoint, or "latest"')
    command.add_argument("--dry-run", action="store_true", help="say what would be done, and end")

    command = recipes.add_parser("emoji", help="a first training, in under five minutes")
    command.set_defaults(run=run_train_emoji)
    command.add_argument("--run", type=Path, required=True, dest="folder", help="the run's folder")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings"
    )
    command.add_argument("--resume", metavar="CHECKPOINT", help='a checkpoint, or "latest"')

    command = recipes.add_parser("plot", help="draw loss, scale, learning rate and speed of a run")
    command.set_defaults(run=run_train_plot)
    command.add_argument("folder", type=Path, help="the run's folder")

    command = recipes.add_parser("bundled", help="make the model inside the package again")
    command.set_defaults(run=run_train_bundled)
    command.add_argument("data", type=Path, help="the folder with the data (docs/model-card.md)")
    command.add_argument("destination", type=Path, help="the model directory to make")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="change a field of TrainConfig, such as lr=1e-4",
    )


def _add_model_options(command: argparse.ArgumentParser, positional: bool = False) -> None:
    text = "a model directory, file or hf-hub:org/name (the bundled model)"
    if positional:
        command.add_argument("model", nargs="?", help=text)
    else:
        command.add_argument("--model", help=text)
    command.add_argument(
        "--engine",
        choices=("onnxruntime", "openvino", "torch"),
        default="onnxruntime",
        help="what runs the model (onnxruntime)",
    )


def run_classify(arguments: argparse.Namespace) -> int:
    from twotower.encode.classify import classify
    from twotower.encode.load import load
    from twotower.inputs.pictures import find_pictures

    labels = read_labels(arguments.labels)
    pictures = find_pictures(arguments.pictures)
    model = load(arguments.model, engine=arguments.engine)
    answers = classify(
        pictures,
        labels,
        model=model,
        templates=arguments.templates,
        top=arguments.top,
        none=arguments.none,
    )
    print_answers = print_json if arguments.json else print_lines
    failed = print_answers(_with_progress(answers, len(pictures)))
    return FAILED if failed else OK


def read_labels(text: str) -> list[str]:
    """The labels of `--labels`: words between commas, or the lines of a file."""
    from twotower.encode.classify import LabelError

    path = Path(text)
    if not _is_file(path):
        if path.suffix in (".txt", ".csv"):
            raise LabelError(f"{text}: no such label file; write one label on each line")
        if text in (".", "..") or text.endswith("/"):
            raise LabelError(f"{text}: a folder, not a label file; write one label on each line")
        return text.split(",")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LabelError(f"{text}: not UTF-8 text; save it as UTF-8") from None
    labels = [line for line in lines if line.strip()]
    if not labels:
        raise LabelError(f"{text}: an empty label file; write one label on each line")
    return labels


def _bytes(text: str) -> int:
    """A size such as 8GB, 500MB or a number of bytes."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text[:-2], text[-2:].upper()
    try:
        return int(float(number) * units[unit]) if unit in units else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 8GB") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a list of words can be longer than any file name
        return False


def print_json(answers: Iterable[Classified]) -> int:
    """One array, an object for each picture; valid JSON also when interrupted.

    Returns:
        How many pictures could not be read.
    """
    failed, separator = 0, "["
    try:
        for answer in answers:
            failed += answer.error is not None
            print(separator + _to_json(answer), end="")
            separator = ",\n "
    finally:
        print("[]" if separator == "[" else "]")
    return failed


def _to_json(answer: Classified) -> str:
    tree = {
        "path": str(answer.source),
        "labels": [asdict(label) for label in answer.labels],
        "error": str(answer.error) if answer.error else None,
    }
    text = json.dumps(tree, ensure_ascii=False)
    # the name of a file may be bytes that are no text; escaped, they come back in os.fsencode
    return json.dumps(tree) if re.search("[\udc80-\udcff]", text) else text


def print_lines(answers: Iterable[Classified]) -> int:
    """A line for each picture on stdout; what could not be read, on stderr.

    Returns:
        How many pictures could not be read.
    """
    failed = 0
    for answer in answers:
        if answer.error:
            failed += 1
            print(f"twotower: {answer.error}", file=sys.stderr)
        else:
            labels = "  ".join(f"{one.label} {one.probability:.0%}" for one in answer.labels)
            print(f"{answer.source!s}  {labels}", flush=True)
    return failed


def run_convert(arguments: argparse.Namespace) -> int:
    from twotower.encode.export import convert
    from twotower.encode.load import find_source

    with _status(f"Converting {arguments.source}"):
        convert(find_source(arguments.source), arguments.destination, arguments.to)
    print(f"{arguments.destination}: written as {arguments.to}, golden vectors reproduced")
    return OK


def run_verify(arguments: argparse.Namespace) -> int:
    from twotower.encode.load import load

    model = load(arguments.model, engine=arguments.engine)
    cosine = model.verify()
    print(
        f"{model.config.name}: golden vectors reproduced with {arguments.engine}, "
        f"lowest cosine {cosine:.6f}"
    )
    return OK


def run_pairs_pack(arguments: argparse.Namespace) -> int:
    from twotower.pairs.shards import pack
    from twotower.pairs.sources import open_source

    source = open_source(arguments.source)
    with _progress("Packing", len(source)) as advance:
        broken = pack(source, arguments.destination, arguments.per_shard, advance)
    _print_broken(broken)
    shards = len(list(arguments.destination.glob("*.tar")))
    print(
        f"{arguments.destination}: {shards} shards; {len(broken)} of {len(source)} pairs left out"
    )
    return FAILED if broken else OK


def run_pairs_stats(arguments: argparse.Namespace) -> int:
    from twotower.pairs.shards import count_pairs
    from twotower.pairs.sources import open_source

    source = open_source(arguments.source)
    with _progress("Counting", len(source)) as advance:
        stats = count_pairs(source, advance)
    _print_broken(stats.broken)
    print("\n".join(stats.lines()))
    return OK


def _print_broken(broken: Sequence[str], most: int = 20) -> None:
    for line in broken[:most]:
        print(f"twotower: {line}", file=sys.stderr)
    if len(broken) > most:
        print(f"twotower: and {len(broken) - most} more", file=sys.stderr)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A function that advances a progress bar on stderr, where a person is looking at it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def run_train_pretrain(arguments: argparse.Namespace) -> int:
    from twotower.train.recipes import pretrain
    from twotower.train.show import describe, explain, watch

    config = pretrain(
        arguments.pairs,
        arguments.model,
        batch_size=arguments.batch_size,
        steps=arguments.steps,
        memory=arguments.memory,
        settings=arguments.settings,
    )
    if arguments.dry_run:
        print("\n".join(describe(config)))
        return OK
    from twotower.train.loop import train

    with watch(config) as report:
        directory = train(config, arguments.folder, arguments.resume, report)
    print(f"{directory}: a model; try it with --model {directory}")
    for line in explain(arguments.folder):
        print(line)
    return OK


def run_train_emoji(arguments: argparse.Namespace) -> int:
    from twotower.train.config import with_settings
    from twotower.train.loop import train
    from twotower.train.recipes import emoji
    from twotower.train.show import draw_confusions, plot, read_log, watch

    config = with_settings(emoji(), arguments.settings)
    with watch(config) as report:
        directory = train(config, arguments.folder, arguments.resume, report)
    assert config.zero_shot is not None
    top1 = read_log(arguments.folder)[-1]["zero_shot_top1"]
    print(f"{top1:.1%} of another artist's emoji are named rightly, among 1526 names")
    print(f"{directory}: the model")
    print(f"{plot(arguments.folder)}: loss and scores")
    print(f"{draw_confusions(arguments.folder, config.zero_shot)}: its surest mistakes")
    return OK


def run_train_plot(arguments: argparse.Namespace) -> int:
    from twotower.train.show import plot

    print(plot(arguments.folder))
    return OK


def run_train_bundled(arguments: argparse.Namespace) -> int:
    from twotower.train.recipes import bundled

    bundled(arguments.data, arguments.destination, say=print)
    return OK


def _with_progress(answers: Iterator[Classified], total: int) -> Iterator[Classified]:
    with _progress("Classifying", total) as advance:
        for answer in answers:
            yield answer
            advance()


def _status(text: str) -> Any:
    from rich.console import Console

    return Console(stderr=True).status(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _print_warning(message: Warning | str, *_: Any) -> None:
    print(f"twotower: {message}", file=sys.stderr)
