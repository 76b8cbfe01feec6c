"""`twotower convert` and `twotower verify`: convert models, and check them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import (
    BUNDLED,
    FAILED,
    OK,
    add_arch_option,
    add_model_options,
    show_progress,
)

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "convert", help="convert a CLIP or SigLIP model to another format"
    )
    command.set_defaults(run=run_convert)
    command.add_argument(
        "source", help=f"{BUNDLED}, a model directory, an OpenAI .pt file or hf-hub:org/name"
    )
    command.add_argument("destination", type=Path, help="a new directory")
    command.add_argument(
        "--to",
        choices=("twotower", "transformers", "open_clip", "sentence_transformers", "onnx"),
        default="twotower",
        help="the format to write (twotower)",
    )
    command.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="the size of a vision transformer's pictures, a multiple of its patch size: a smaller "
        "one is faster and less accurate",
    )
    add_arch_option(command)

    command = commands.add_parser("verify", help="check a model against its golden vectors")
    command.set_defaults(run=run_verify)
    add_model_options(command, positional=True)
    add_arch_option(command)
    command.add_argument(
        "--suspect",
        type=Path,
        metavar="FOLDER",
        help="find wrong settings with pictures in folders (or files) named after their content",
    )


def run_convert(arguments: argparse.Namespace) -> int:
    from twotower.encode.convert import convert
    from twotower.encode.load import find_source

    with show_progress(f"Converting {arguments.source}"):
        source = find_source(arguments.source)
        convert(source, arguments.destination, arguments.to, arguments.arch, arguments.image_size)
    print(
        f"Converted {arguments.source} to {arguments.destination} (format {arguments.to}) and "
        "verified the result"
    )
    if arguments.image_size is not None and arguments.to == "twotower":
        print(
            "Its probabilities and tags are guesses until: twotower calibrate "
            f"{arguments.destination} PAIRS"
        )
    return OK


def run_verify(arguments: argparse.Namespace) -> int:
    from twotower.encode.load import load

    if arguments.suspect is not None:
        return _suspect(arguments.model, arguments.suspect)
    model = load(arguments.model, engine=arguments.engine, arch=arguments.arch)
    cosine = model.verify()
    print(
        f"{model.config.name}: golden vectors reproduced with {model.engine}, "
        f"lowest cosine {cosine:.6f}"
    )
    return OK


def _suspect(name: str | None, folder: Path) -> int:
    """Print the outcome of each setting. Returns 1 if the declared one of any is suspected."""
    from twotower.encode.load import find_model
    from twotower.encode.suspect import suspect

    directory = find_model(name)
    with show_progress("Trying settings") as report:
        suspicion = suspect(directory, folder, report)
    print(
        f"{suspicion.pictures} pictures, {suspicion.words} words: {suspicion.accuracy:.0%} right "
        "as declared\n"
    )
    for outcome in suspicion.outcomes:
        verdict = "better" if outcome.is_better else "worse" if outcome.gain < 0 else "no evidence"
        print(
            f"{outcome.setting:28} instead of {outcome.declared:12} {outcome.accuracy:4.0%} right  "
            f"gain {outcome.gain:+.3f} ({outcome.certainty:+.1f} standard errors): {verdict}"
        )
    best = suspicion.best
    if best is None:
        print("\nNo other setting is surely better.")
        return OK
    print(
        f"\nSuspected: {best.setting} fits better than the declared {best.declared} "
        f"({best.accuracy:.0%} right instead of {suspicion.accuracy:.0%}). Compare the settings "
        "with the model's source."
    )
    return FAILED
