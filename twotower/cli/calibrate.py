"""`twotower calibrate`: fit the probabilities of search and tags to a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from twotower.cli.output import BUNDLED, OK, count_of, print_failures, show_progress
from twotower.cli.pairs import SOURCE

if TYPE_CHECKING:
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    """Add the parser of `calibrate`."""
    command = commands.add_parser(
        "calibrate",
        help="fit the probabilities of search and tags to a model, on pictures of known content",
    )
    command.set_defaults(run=run_calibrate)
    command.add_argument("model", help=f"{BUNDLED} or a model directory")
    command.add_argument("pairs", nargs="+", metavar="PAIRS", help=SOURCE)


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Fit a calibration and write it into the model directory."""
    from twotower.calibration.calibration import CALIBRATION_FILE, write_calibration
    from twotower.calibration.competitors import (
        COMPETITORS_FILE,
        competitors_key,
        write_competitors,
    )
    from twotower.calibration.fit import COPY_SAMPLES, embed_source
    from twotower.encode.load import load
    from twotower.pairs.sources import open_source
    from twotower.tagging.fit_tags import fit_calibration

    model = load(arguments.model)
    sources = [open_source(pairs) for pairs in arguments.pairs]
    results = []
    for source in sources:
        with show_progress(f"Embedding {source.name}") as report:
            results.append(embed_source(model, source, report))
    print_failures([error for result in results for error in result.errors])
    share = COPY_SAMPLES // len(sources)
    with show_progress("Fitting") as report:
        calibration = fit_calibration(
            model,
            [result.pictures for result in results],
            [sample for result in results for sample in result.samples[:share]],
            report,
        )
    competitors = model.config.text_directory(model.directory) / COMPETITORS_FILE
    write_competitors(calibration.text.competitors, competitors, competitors_key(model))
    write_calibration(calibration, model.directory)
    pictures = sum(len(result.pictures.captions) for result in results)
    print(
        f"{model.directory / CALIBRATION_FILE}: fitted on {count_of(pictures, 'picture')}; cut-off "
        f"{calibration.text.name.cutoff:.2f} for names, {calibration.text.phrase.cutoff:.2f} for "
        f"phrases, {calibration.image.cutoff:.2f} for pictures"
    )
    return OK
