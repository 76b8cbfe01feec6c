"""The calibration of a model: its curves, and their file.

Curves are fitted once for a model, on pictures with captions (`fit.py`). With a picture as the
query, the curve is over the cosine alone: that is more accurate for pictures that the model was not
trained on. How well the probabilities hold: docs/search.md.
"""

from __future__ import annotations

import base64
import contextlib
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twotower.arrays import Float32Array
from twotower.calibration.background import (
    Background,
    Curve,
    background_texts,
    measure_background,
)
from twotower.calibration.tag_curve import (
    Recalibration,
    TagCurve,
    mean_distance,
    simple_tag_curve,
)
from twotower.encode.golden import golden_hash
from twotower.errors import CalibrationError
from twotower.files import atomic_write

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

CALIBRATION_FILE = "calibration.json"

# For models without a calibration: about the values of calibrated ones.
TYPICAL_TEXT = (1.1, 0.7, -0.4, -5.0)
TYPICAL_IMAGE = (0.3, 0.7, -0.1, -5.3)
TYPICAL_CUTOFF = 0.35
TYPICAL_DUPLICATE = 0.95
TYPICAL_TAGS = (0.1, 2.7, 10.1, -9.2, -4.0)
TYPICAL_CUTOFFS = ((0.5, 0.5), (0.7, 0.7), (0.8, 0.8), (0.9, 0.94), (0.95, 0.98))


@dataclass(frozen=True)
class Calibration:
    """The curves of a model.

    Attributes:
        text: for words as the query.
        image: for a picture as the query.
        duplicate: the cosine from which two pictures are near-duplicates.
        model: `golden_hash` of the model that the curves belong to.
        tags: for tags, if they were fitted.
    """

    text: Curve
    image: Curve
    duplicate: float
    model: str
    tags: TagCurve | None = None

    def to_json(self) -> str:
        """Return JSON, with arrays as base64 of float16 or float32."""
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
                "known": asdict(self.tags.fitted),
                "others": asdict(self.tags.unfitted),
            }
        return json.dumps(tree, indent=1)

    @classmethod
    def from_json(cls, text: str, source: Path) -> Calibration:
        """Parse the JSON of `to_json`.

        Args:
            source: the file, for messages.

        Raises:
            CalibrationError: the text is something else.
        """
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
                source,
                f"not a calibration ({type(error).__name__}: {error})",
                f"make it again with: twotower calibrate {source.parent} PAIRS",
            ) from None


def read_calibration(directory: Path) -> Calibration | None:
    """Return the calibration in a model directory; None if it is missing or of other weights.

    Raises:
        CalibrationError: the file is damaged.
    """
    path = directory / CALIBRATION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    calibration = Calibration.from_json(text, path)
    return calibration if calibration.model == golden_hash(directory) else None


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Write the calibration of a model directory, atomically."""
    with atomic_write(directory / CALIBRATION_FILE) as file:
        file.write(calibration.to_json())


def require_calibration(
    model: Encoder, folder: Path, sample: Callable[[], Float32Array]
) -> Calibration:
    """Return the calibration of a model, or, with a warning, an estimate.

    Args:
        folder: where an estimate is kept for the next time, unless it is read-only.
        sample: returns image_embeds [n, embed_dim] to estimate from.

    Raises:
        CalibrationError: the model's calibration is damaged.
    """
    calibration = read_calibration(model.directory)
    if calibration is not None:
        return calibration
    warnings.warn(
        f"{model.config.name} has no calibration: probabilities and the cut-off are guesses; make "
        f"one with: twotower calibrate {model.directory} PAIRS",
        stacklevel=3,
    )
    path = folder / CALIBRATION_FILE
    with contextlib.suppress(OSError, CalibrationError):
        calibration = Calibration.from_json(path.read_text(encoding="utf-8"), path)
        if calibration.model == golden_hash(model.directory):
            return calibration
    calibration = estimate(model, sample())
    with contextlib.suppress(OSError):
        write_calibration(calibration, folder)
    return calibration


def estimate(model: Encoder, image_embeds: Float32Array) -> Calibration:
    """Estimate the calibration of a model without pictures with captions.

    The backgrounds are measured on `image_embeds` [n, embed_dim], the pictures that are searched.
    The weights are those of other models, which apply because features are in deviations.
    """
    text = measure_background(image_embeds, model.encode_text(background_texts()))
    image = measure_background(image_embeds, image_embeds)
    return Calibration(
        text=Curve(text, TYPICAL_TEXT, TYPICAL_CUTOFF),
        image=Curve(image, TYPICAL_IMAGE, TYPICAL_CUTOFF),
        duplicate=TYPICAL_DUPLICATE,
        model=golden_hash(model.directory),
    )


def require_tag_curve(model: Encoder, calibration: Calibration) -> TagCurve:
    """Return the curve of tags in a model's calibration, or, with a warning, a typical one."""
    if calibration.tags:
        return calibration.tags
    warnings.warn(
        f"the calibration of {model.config.name} has no curve of tags: their probabilities are "
        f"guesses; make it again with: twotower calibrate {model.directory} PAIRS",
        stacklevel=3,
    )
    distance = mean_distance(model.encode_text(background_texts()))
    return simple_tag_curve(calibration.text.background, distance, TYPICAL_TAGS, TYPICAL_CUTOFFS)


def _curve_tree(curve: Curve) -> dict[str, Any]:
    background = curve.background
    return {
        "weights": list(curve.weights),
        "cutoff": curve.cutoff,
        "pictures": _encode(background.pictures, "<f4"),
        "spread": _encode(background.spread, "<f2"),
        "rest": background.residual,
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
    weights = tuple(float(weight) for weight in tree["weights"])
    if len(weights) != 4 or background.spread.shape[1:] != background.pictures.shape:
        raise ValueError("its arrays do not fit together")
    return Curve(background, weights, float(tree["cutoff"]))


def _tag_curve(tree: dict[str, Any], background: Background) -> TagCurve:
    weights, words = tuple(float(weight) for weight in tree["weights"]), _decode(tree["words"])
    if len(weights) != len(TYPICAL_TAGS) or words.shape != background.queries.shape:
        raise ValueError("its arrays do not fit together")
    fitted, unfitted = (
        Recalibration(float(branch["slope"]), float(branch["constant"]), _pairs(branch["cutoffs"]))
        for branch in (tree["known"], tree["others"])
    )
    names = frozenset(str(name) for name in tree["names"])
    return TagCurve(background, float(tree["distance"]), weights, words, names, fitted, unfitted)


def _pairs(rows: list[list[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(precision), float(cutoff)) for precision, cutoff in rows)


def _encode(array: Float32Array, dtype: str) -> dict[str, Any]:
    content = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": list(array.shape), "base64": content}


def _decode(tree: dict[str, Any]) -> Float32Array:
    flat = np.frombuffer(base64.b64decode(tree["base64"]), np.dtype(tree["dtype"]))
    return flat.reshape(tree["shape"]).astype(np.float32)
