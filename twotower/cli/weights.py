"""`twotower convert` and `twotower verify`: convert models, and check them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import BUNDLED, OK, add_model_options, show_progress

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

    command = commands.add_parser("verify", help="check a model against its golden vectors")
    command.set_defaults(run=run_verify)
    add_model_options(command, positional=True)


def run_convert(arguments: argparse.Namespace) -> int:
    from twotower.encode.convert import convert
    from twotower.encode.load import find_source

    with show_progress(f"Converting {arguments.source}"):
        convert(find_source(arguments.source), arguments.destination, arguments.to)
    print(
        f"Converted {arguments.source} to {arguments.destination} (format {arguments.to}) and "
        "verified the result"
    )
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
