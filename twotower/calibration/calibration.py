"""A score to the probability that a person would call it a match, and the cut-off.

A cosine means nothing by itself: what is high for one query is low for the next, and some
pictures lie near everything. So a score is measured against two backgrounds: what this query gets
from pictures in general, and what this picture gets from queries in general. A logistic curve over
the two and the number of pictures that compete, fitted once for a model on pictures with captions
(`fit.py`), gives the probability. Where a picture is the query, the curve is over the cosine alone,
which tells more on pictures that the model has not learned from. How well that holds:
docs/search.md.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.encode.golden import golden_hash

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
from twotower.arrays import Float32Array
from twotower.calibration.background import Background, background_texts, measure_background
from twotower.calibration.tag_curve import Recalibration, TagCurve
from twotower.errors import CalibrationError

CALIBRATION_FILE = "calibration.json"

# For a model that was never calibrated: about what calibrated ones have.
TYPICAL_TEXT = (1.1, 0.7, -0.4, -5.0)
TYPICAL_IMAGE = (0.3, 0.7, -0.1, -5.3)
TYPICAL_CUTOFF = 0.35
TYPICAL_DUPLICATE = 0.95
TYPICAL_TAGS = (0.1, 2.7, 10.1, -9.2, -4.0)
TYPICAL_CUTOFFS = ((0.5, 0.5), (0.7, 0.7), (0.8, 0.8), (0.9, 0.94), (0.95, 0.98))


@dataclass(frozen=True)
class Curve:
    """From features to a probability: the weights of a logistic curve, the last its constant.

    `cutoff` is the probability from which a picture is called a match: at that, nine of ten
    queries for what no picture shows found nothing when the curve was fitted.
    """

    background: Background
    weights: tuple[float, ...]
    cutoff: float

    def logits(
        self, query: Float32Array, image_embeds: Float32Array, size: int
    ) -> NDArray[np.float64]:
        """The log-odds of a match [n]; arguments as in `Background.features`."""
        features = self.background.features(query, image_embeds, size)
        return np.asarray(features @ self.weights[:-1] + self.weights[-1])


@dataclass(frozen=True)
class Calibration:
    """A model's curves: words to pictures, pictures to pictures, and, if it has one, of tags.

    `duplicate` is the cosine from which two pictures are called copies of one another; `model`
    the hash of the golden vectors of the model that it was made for.
    """

    text: Curve
    image: Curve
    duplicate: float
    model: str
    tags: TagCurve | None = None

    def to_json(self) -> str:
        """JSON, arrays as base64 of float16 or float32."""
        tree = {
            "model": self.model,
            "duplicate": self.duplicate,
            "text": _curve_tree(self.text),
            "image": _curve_tree(self.image),
        }
        if self.tags:  # its background is that of `text`
            tree["tags"] = {
                "distance": self.tags.distance,
                "weights": list(self.tags.weights),
                "words": _encode(self.tags.words, "<f4"),
                "names": sorted(self.tags.names),
                "known": asdict(self.tags.known),
                "others": asdict(self.tags.others),
            }
        return json.dumps(tree, indent=1)

    @classmethod
    def from_json(cls, text: str, source: Path) -> Calibration:
        """Parse what `to_json` wrote; `source` is named in errors. Raises `CalibrationError`."""
        try:
            tree = json.loads(text)
            curve = _curve(tree["text"])
            return cls(
                curve,
                _curve(tree["image"]),
                float(tree["duplicate"]),
                str(tree["model"]),
                _tag_curve(tree["tags"], curve.background) if "tags" in tree else None,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(
                f"{source}: not a calibration ({type(error).__name__}: {error}); make it again "
                f"with: twotower calibrate {source.parent} PAIRS"
            ) from None


def read_calibration(directory: Path) -> Calibration | None:
    """The calibration in a model directory; None if there is none, or it is of other weights.

    Raises:
        CalibrationError: there is one, and it is damaged.
    """
    path = directory / CALIBRATION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    calibration = Calibration.from_json(text, path)
    return calibration if calibration.model == golden_hash(directory) else None


def estimate(model: Encoder, image_embeds: Float32Array) -> Calibration:
    """What can be said of a model without pictures with captions.

    The backgrounds are those of `image_embeds`, the pictures that are searched; the weights are
    those that other models got, which is possible because features count in deviations.
    """
    text = measure_background(image_embeds, model.encode_text(background_texts()))
    image = measure_background(image_embeds, image_embeds)
    return Calibration(
        text=Curve(text, TYPICAL_TEXT, TYPICAL_CUTOFF),
        image=Curve(image, TYPICAL_IMAGE, TYPICAL_CUTOFF),
        duplicate=TYPICAL_DUPLICATE,
        model=golden_hash(model.directory),
    )


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Put a calibration into a model directory, whole or not at all."""
    path = directory / CALIBRATION_FILE
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(calibration.to_json(), encoding="utf-8")
    unfinished.replace(path)


def _curve_tree(curve: Curve) -> dict[str, Any]:
    background = curve.background
    return {
        "weights": list(curve.weights),
        "cutoff": curve.cutoff,
        "pictures": _encode(background.pictures, "<f4"),
        "spread": _encode(background.spread, "<f2"),
        "rest": background.rest,
        "queries": _encode(background.queries, "<f4"),
        "query_sd": background.query_sd,
    }


def _curve(tree: dict[str, Any]) -> Curve:
    background = Background(
        _decode(tree["pictures"]),
        _decode(tree["spread"]),
        float(tree["rest"]),
        _decode(tree["queries"]),
        float(tree["query_sd"]),
    )
    weights = tuple(float(one) for one in tree["weights"])
    if len(weights) != 4 or background.spread.shape[1:] != background.pictures.shape:
        raise ValueError("its parts do not fit together")
    return Curve(background, weights, float(tree["cutoff"]))


def _tag_curve(tree: dict[str, Any], background: Background) -> TagCurve:
    weights, words = tuple(float(one) for one in tree["weights"]), _decode(tree["words"])
    if len(weights) != len(TYPICAL_TAGS) or words.shape != background.queries.shape:
        raise ValueError("its parts do not fit together")
    known, others = (
        Recalibration(float(one["slope"]), float(one["constant"]), _pairs(one["cutoffs"]))
        for one in (tree["known"], tree["others"])
    )
    names = frozenset(str(name) for name in tree["names"])
    return TagCurve(background, float(tree["distance"]), weights, words, names, known, others)


def _pairs(rows: list[list[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(precision), float(cutoff)) for precision, cutoff in rows)


def _encode(array: Float32Array, dtype: str) -> dict[str, Any]:
    content = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": list(array.shape), "base64": content}


def _decode(tree: dict[str, Any]) -> Float32Array:
    flat = np.frombuffer(base64.b64decode(tree["base64"]), np.dtype(tree["dtype"]))
    return flat.reshape(tree["shape"]).astype(np.float32)
