"""The calibration of a library's model."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

from twotower.encode.golden import golden_hash

if TYPE_CHECKING:
    from twotower.index.index import Index
from twotower.arrays import Float32Array
from twotower.calibration.background import background_texts
from twotower.calibration.calibration import (
    CALIBRATION_FILE,
    TYPICAL_CUTOFFS,
    TYPICAL_TAGS,
    Calibration,
    estimate,
    read_calibration,
    write_calibration,
)
from twotower.calibration.tag_curve import TagCurve, mean_distance, simple_tag_curve
from twotower.errors import CalibrationError

ESTIMATED_FROM = 5000  # pictures of the library


def library_calibration(index: Index) -> Calibration:
    """The calibration of a library's model, or, with a warning, one estimated from its pictures."""
    directory = index.encoder.directory
    calibration = read_calibration(directory)
    if calibration is not None:
        return calibration
    warnings.warn(
        f"{index.encoder.config.name} has no calibration: probabilities and the cut-off are "
        f"guesses; make one with: twotower calibrate {directory} PAIRS",
        stacklevel=2,
    )
    path = index.location / CALIBRATION_FILE
    with contextlib.suppress(OSError, CalibrationError):
        calibration = Calibration.from_json(path.read_text(encoding="utf-8"), path)
        if calibration.model == golden_hash(directory):
            return calibration
    calibration = estimate(index.encoder, _some_vectors(index))
    with contextlib.suppress(OSError):  # a library that is read-only is estimated anew each time
        write_calibration(calibration, index.location)
    return calibration


def library_tag_curve(index: Index) -> TagCurve:
    """The curve of tags of a library's model, or, with a warning, a typical one."""
    calibration = library_calibration(index)
    if calibration.tags:
        return calibration.tags
    warnings.warn(
        f"the calibration of {index.encoder.config.name} knows nothing of tags: their "
        "probabilities are guesses; make it again with: twotower calibrate "
        f"{index.encoder.directory} PAIRS",
        stacklevel=2,
    )
    background = calibration.text.background
    queries = index.encoder.encode_text(background_texts())
    return simple_tag_curve(background, mean_distance(queries), TYPICAL_TAGS, TYPICAL_CUTOFFS)


def _some_vectors(index: Index) -> Float32Array:
    ids = index.vectors.ids()
    return index.vectors.get(ids[:: len(ids) // ESTIMATED_FROM + 1])
