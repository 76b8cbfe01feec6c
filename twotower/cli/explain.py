"""`twotower explain`: draw a heat map of where a picture matches words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.output import OK, add_arch_option, add_model_options, show_progress

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("explain", help="show where a picture matches words")
    command.set_defaults(run=run_explain)
    command.add_argument("picture", help="a picture")
    command.add_argument("words", help="what to look for in it")
    command.add_argument(
        "--out", type=Path, default=Path("heat.png"), help="the heat map to write (heat.png)"
    )
    add_model_options(command)
    add_arch_option(command)


def run_explain(arguments: argparse.Namespace) -> int:
    from twotower.encode.explain import draw, explain
    from twotower.encode.load import load
    from twotower.errors import LabelError

    if not _is_writable_format(arguments.out):
        raise LabelError(arguments.out, "unsupported suffix", "use .png or .jpg")
    model = load(arguments.model, engine=arguments.engine, arch=arguments.arch)
    with show_progress("Explaining"):
        explanation = explain(model, arguments.picture, arguments.words)
    draw(explanation).save(arguments.out)
    x, y = explanation.peak
    print(
        f"Wrote {arguments.out}: the best match is {x:.0%} from the left and {y:.0%} from the top "
        f"(cosine of the whole picture {explanation.score:.3f})"
    )
    return OK


def _is_writable_format(path: Path) -> bool:
    from PIL import Image

    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE
