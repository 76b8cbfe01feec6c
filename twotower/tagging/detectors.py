"""Tags decided by appearance: blurry and black pictures, screenshots, documents, receipts, memes.

Sharpness and brightness decide the first two. The others are logistic regressions over facts of
the pixels (flat areas, few colours, straight lines, rows of ink, paper lighter than its
background, lettering with an edge) and over the similarity of the picture to each of four
sentences. examples/make_detectors.py fitted their weights (`detectors.json`) on drawn pictures.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.arrays import Float32Array, Float64Array
from twotower.encode.stream import read_ahead
from twotower.errors import PictureError
from twotower.inputs.media import open_frames
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.tagging.pixel_facts import FACT_COUNT, MAX_SIDE, measure

if TYPE_CHECKING:
    from twotower.index.index import Index

RULES_FILE = Path(__file__).with_name("detectors.json")
# Intercept and slope of the log-odds, set by hand; measured by benchmarks/quality/detectors.py.
BLURRY_CURVE = (7.4, -2.0)  # over the logarithm of the sharpness
BLACK_CURVE = (6.0, -0.5)  # over the 99th percentile of the brightness, 0 to 255
MAX_DEVIATION = 4.0  # standardised facts are clipped to this, for pictures unlike the fitted ones
MAX_LOGIT = 20.0
# Sentences whose similarity the rules use, in the order of their weights.
SENTENCES = (
    "a screenshot of a computer program with windows, menus and icons",
    "a scan of a printed page of text",
    "a photo of a shop receipt with a list of prices and a total",
    "an internet meme with a caption",
)
SAVE_INTERVAL = 500  # pictures between two writes to the catalog


def detector_logits(
    detector: str, measures: Float64Array, deviations: Float32Array
) -> Float64Array:
    """Return the log-odds [n] that `detector` applies; -MAX_LOGIT for unreadable pictures.

    Args:
        detector: one of `vocabulary.DETECTORS`.
        measures: facts of the pictures [n, FACT_COUNT]; NaN for unreadable ones.
        deviations: how far the pictures stand out for each of `SENTENCES` [n, 4].
    """
    black = BLACK_CURVE[0] + BLACK_CURVE[1] * measures[:, 1]
    if detector == "black":
        logits = black
    elif detector == "blurry":  # nothing in a black picture can be sharp
        logits = BLURRY_CURVE[0] + BLURRY_CURVE[1] * np.log1p(measures[:, 0])
        logits = np.minimum(logits, -black)
    else:
        rules = read_rules()
        facts = np.concatenate([measures, deviations], axis=1)
        standardised = np.clip((facts - rules["mean"]) / rules["sd"], -MAX_DEVIATION, MAX_DEVIATION)
        *weights, intercept = rules["weights"][detector]
        logits = standardised @ np.array(weights) + intercept
    return np.where(np.isnan(logits), -MAX_LOGIT, np.clip(logits, -MAX_LOGIT, MAX_LOGIT))


@functools.cache
def read_rules() -> dict[str, Any]:
    """Read `mean` and `sd` of facts and deviations, and by detector `weights` and an intercept."""
    rules: dict[str, Any] = json.loads(RULES_FILE.read_text(encoding="utf-8"))
    return rules


def measure_pictures(
    index: Index, ids: Sequence[int], report: ReportProgress = ignore_progress
) -> Float64Array:
    """Measure pictures of a library; the catalog keeps the facts, so each is decoded only once.

    Args:
        report: called with the number of pictures that are measured.

    Returns:
        The facts [n, FACT_COUNT]; NaN for unreadable pictures.
    """
    measures = {
        picture_id: row
        for picture_id, row in index.catalog.measures(ids).items()
        if len(row) == FACT_COUNT
    }
    missing = [picture_id for picture_id in ids if picture_id not in measures]
    done = len(ids) - len(missing)
    files = [(record.id, index.root / record.path) for record in index.catalog.pictures(missing)]
    unsaved: dict[int, Float64Array] = {}
    for number, ((picture_id, _), row) in enumerate(read_ahead(_measure_file, files, ahead=8), 1):
        assert not isinstance(row, PictureError)
        measures[picture_id] = unsaved[picture_id] = row
        report(Progress(done + number, len(ids)))
        if len(unsaved) == SAVE_INTERVAL:
            _save(index, unsaved)
            unsaved = {}
    _save(index, unsaved)
    unreadable = np.full(FACT_COUNT, np.nan)
    rows = [measures.get(picture_id, unreadable) for picture_id in ids]
    return np.array(rows, np.float64).reshape(-1, FACT_COUNT)


def _save(index: Index, measures: dict[int, Float64Array]) -> None:
    if index.catalog.writable:
        index.catalog.add_measures(measures)


def _measure_file(file: tuple[int, Path]) -> Float64Array:
    try:
        return measure(open_frames(file[1], 1, draft_size=MAX_SIDE)[0])
    except (PictureError, OSError):
        return np.full(FACT_COUNT, np.nan)
