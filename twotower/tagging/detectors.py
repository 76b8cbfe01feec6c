"""Tags that looks decide: blurry and black pictures, screenshots, documents, receipts and memes.

The first two are told by their pixels. The others by a logistic rule over facts of their pixels
(flat areas, few colours, straight lines, rows of ink, paper lighter than what it lies on, lettering
with an edge) and over how far the model finds them like each of four sentences. The rules
(`detectors.json`) were fitted on drawn pictures by examples/make_detectors.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.encode.stream import read_ahead
from twotower.errors import PictureError
from twotower.inputs.media import open_frames

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.index.index import Index
from twotower.tagging.pixel_facts import FACTS, SIDE, Measures, measure

RULES = Path(__file__).with_name("detectors.json")
# Constant and slope of the log-odds, set by hand; measured by benchmarks/quality/detectors.py.
BLURRY = (7.4, -2.0)  # over the logarithm of the sharpness
BLACK = (6.0, -0.5)  # over the 99th percentile of the brightness, 0 to 255
FARTHEST = 4.0  # deviations from what the rules were fitted on; what is farther counts as that far
# What the rules ask the model, in the order of their weights.
SENTENCES = (
    "a screenshot of a computer program with windows, menus and icons",
    "a scan of a printed page of text",
    "a photo of a shop receipt with a list of prices and a total",
    "an internet meme with a caption",
)


def judge_looks(detector: str, measures: Measures, deviations: Float32Array) -> NDArray[np.float64]:
    """Log-odds [n] that `detector` holds; where nothing could be measured, that it does not.

    Args:
        deviations: how far the pictures stand out for each of `SENTENCES` [n, 4].
    """
    black = BLACK[0] + BLACK[1] * measures[:, 1]
    if detector == "black":
        logits = black
    elif detector == "blurry":  # a black picture has nothing that could be sharp
        logits = BLURRY[0] + BLURRY[1] * np.log1p(measures[:, 0])
        logits = np.minimum(logits, -black)
    else:
        rules = read_rules()
        facts = np.concatenate([measures, deviations], axis=1)
        usual = np.clip((facts - rules["mean"]) / rules["sd"], -FARTHEST, FARTHEST)
        *weights, constant = rules["weights"][detector]
        logits = usual @ np.array(weights) + constant
    return np.where(np.isnan(logits), -20.0, np.clip(logits, -20, 20))


@functools.cache
def read_rules() -> dict[str, Any]:
    """`mean` and `sd` of facts and deviations, and `weights` with a constant by detector."""
    rules: dict[str, Any] = json.loads(RULES.read_text(encoding="utf-8"))
    return rules


def measure_pictures(
    index: Index, ids: Sequence[int], progress: Callable[[int], None] = lambda count: None
) -> Measures:
    """The measures of pictures [n, FACTS]; they are kept in the catalog, so each is opened once.

    Args:
        progress: called with how many more are done.
    """
    known = {one: row for one, row in index.catalog.measures(ids).items() if len(row) == FACTS}
    missing = [one for one in ids if one not in known]
    new: dict[int, Measures] = {}
    paths = {one.id: index.root / one.path for one in index.catalog.pictures(missing)}
    for (number, _), measured in read_ahead(_measure_file, list(paths.items()), ahead=8):
        assert not isinstance(measured, PictureError)
        new[number] = measured
        progress(1)
        if len(new) % 500 == 0:
            _keep(index, new)
    _keep(index, new)
    known.update(new)
    nothing = np.full(FACTS, np.nan)
    return np.array([known.get(one, nothing) for one in ids], np.float64).reshape(-1, FACTS)


def _keep(index: Index, new: dict[int, Measures]) -> None:
    if index.catalog.writable:
        index.catalog.add_measures(new)


def _measure_file(numbered: tuple[int, Path]) -> Measures:
    try:
        return measure(open_frames(numbered[1], 1, draft_size=SIDE)[0])
    except (PictureError, OSError):
        return np.full(FACTS, np.nan)
