"""`twotower calibrate`: teach a model what its scores mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from twotower.cli.output import OK, print_broken, progress, show_progress
from twotower.cli.pairs import SOURCE

if TYPE_CHECKING:
    from twotower.calibration.fit import Pictures
    from twotower.cli.output import Commands
    from twotower.encode.encoder import Encoder
    from twotower.pairs.pair import Source


def add_commands(commands: Commands) -> None:
    command = commands.add_parser(
        "calibrate", help="fit the probabilities of search to a model, on pictures with captions"
    )
    command.set_defaults(run=run_calibrate)
    command.add_argument("model", help="a model directory, or twotower-small for the bundled one")
    command.add_argument("pairs", nargs="+", metavar="PAIRS", help=SOURCE)


def run_calibrate(arguments: argparse.Namespace) -> int:
    from twotower.calibration.calibration import CALIBRATION_FILE, write_calibration
    from twotower.calibration.fit import COPIES
    from twotower.encode.load import load
    from twotower.pairs.sources import open_source
    from twotower.tagging.fit_tags import fit_calibration

    model = load(arguments.model)
    sources = [open_source(pairs) for pairs in arguments.pairs]
    broken: list[str] = []
    pictures, some = [], []
    for source in sources:
        with progress(f"Embedding {source.name}", len(source)) as advance:
            embedded, first = embed(model, source, broken, advance)
        pictures.append(embedded)
        some += first[: COPIES // len(sources)]
    print_broken(broken)
    with show_progress("Fitting"):
        calibration = fit_calibration(model, pictures, some)
    write_calibration(calibration, model.directory)
    print(
        f"{model.directory / CALIBRATION_FILE}: fitted on "
        f"{sum(len(one.captions) for one in pictures)} pictures; cut-off "
        f"{calibration.text.cutoff:.2f} for words, {calibration.image.cutoff:.2f} for pictures"
    )
    return OK


def embed(
    model: Encoder, source: Source, broken: list[str], advance: Callable[[], None]
) -> tuple[Pictures, list[bytes]]:
    """Vectors and captions of a source, and its first pictures; what is broken is named."""
    import numpy as np

    from twotower.calibration.fit import COPIES, Pictures
    from twotower.errors import BrokenPairError

    keys: list[str] = []
    captions: list[tuple[str, ...]] = []
    first: list[bytes] = []

    def encoded() -> Iterator[bytes]:
        for number in range(len(source)):
            try:
                pair = source[number]
            except BrokenPairError as error:
                broken.append(str(error))
                continue
            keys.append(pair.key)
            captions.append(pair.captions)
            if len(first) < COPIES:
                first.append(pair.picture)
            yield pair.picture

    rows, kept = [], []
    for place, one in enumerate(model.stream(encoded())):
        advance()
        if one.error is not None:
            reason = f"{one.error.reason}; {one.error.remedy}"
            broken.append(f"{source.name}: {keys[place]}: {reason}")
        else:
            assert one.image_embeds is not None  # one of the two is always there
            rows.append(one.image_embeds)
            kept.append(place)
    image_embeds = np.stack(rows) if rows else np.zeros((0, model.config.embed_dim), np.float32)
    readable = [first[place] for place in kept if place < len(first)]
    return Pictures(image_embeds, [captions[place] for place in kept]), readable
