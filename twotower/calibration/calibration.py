"""The calibration of a model: its curves, and their file.

Curves are fitted once for a model (`fit.py`). Words are judged by how they stand out among other
words for the same picture; with a picture as the query, the curve is over the cosine. How well the
probabilities hold: docs/search.md.
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
from twotower.calibration.background import Background, measure_background
from twotower.calibration.competitors import (
    Competitors,
    competitors_key,
    require_competitors,
)
from twotower.calibration.curves import LogisticCurve, TextCurves
from twotower.encode.golden import golden_hash
from twotower.errors import CalibrationError, PathError
from twotower.files import atomic_write, cache_folder

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

CALIBRATION_FILE = "calibration.json"
IMPOSSIBLE = 2.0  # a cut-off above all probabilities

# For models without a calibration: about the values of calibrated ones.
TYPICAL_NAME = LogisticCurve((0.35, 0.25, -1.0), 0.2)
TYPICAL_PHRASE = LogisticCurve((0.1, 0.1, 0.2, 0.2, 0.1, -5.0), 0.2)
TYPICAL_PICTURE = LogisticCurve((17.0, -14.0), 0.35)
TYPICAL_DUPLICATE = 0.95
TYPICAL_PRECISIONS = ((0.5, 0.4), (0.7, 0.6), (0.8, 0.75), (0.9, 0.9), (0.95, 0.95))


@dataclass(frozen=True)
class Calibration:
    """The curves of a model.

    Attributes:
        text: for words as the query, and for tags.
        image: for a picture as the query, over the cosine.
        background: pictures in general.
        precisions: pairs of a precision and the probability from which tags reach it.
        duplicate: the cosine from which two pictures are near-duplicates.
        model: `golden_hash` of the model that the curves belong to.
    """

    text: TextCurves
    image: LogisticCurve
    background: Background
    precisions: tuple[tuple[float, float], ...]
    duplicate: float
    model: str

    def tag_cutoff(self, precision: float) -> float:
        """Return the probability from which tags reach a precision; above 1 if they never do."""
        reaching = [cutoff for reached, cutoff in self.precisions if reached >= precision - 1e-9]
        return min(reaching, default=IMPOSSIBLE)

    def to_json(self) -> str:
        """Return JSON, with arrays as base64; the competitors have a file of their own."""
        tree = {
            "model": self.model,
            "duplicate": self.duplicate,
            "name": asdict(self.text.name),
            "phrase": asdict(self.text.phrase),
            "image": asdict(self.image),
            "precisions": self.precisions,
            "background": {
                "pictures": _encode(self.background.pictures, "<f4"),
                "spread": _encode(self.background.spread, "<f2"),
                "residual": self.background.residual,
            },
        }
        return json.dumps(tree, indent=1)

    @classmethod
    def from_json(cls, text: str, source: Path, competitors: Competitors) -> Calibration:
        """Parse the JSON of `to_json`.

        Args:
            source: the file, for messages.

        Raises:
            CalibrationError: the text is something else.
        """
        try:
            tree = json.loads(text)
            curves = TextCurves(competitors, _curve(tree["name"], 2), _curve(tree["phrase"], 5))
            background = Background(
                _decode(tree["background"]["pictures"]),
                _decode(tree["background"]["spread"]),
                float(tree["background"]["residual"]),
            )
            if background.spread.shape[1:] != background.pictures.shape:
                raise ValueError("its arrays do not fit together")
            return cls(
                curves,
                _curve(tree["image"], 1),
                background,
                tuple(
                    (float(precision), float(cutoff)) for precision, cutoff in tree["precisions"]
                ),
                float(tree["duplicate"]),
                str(tree["model"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CalibrationError(
                source,
                f"not a calibration ({type(error).__name__}: {error})",
                f"make it again with: twotower calibrate {source.parent} PAIRS",
            ) from None


def read_calibration(
    encoder: Encoder, folder: Path | None = None, cache: Path | None = None
) -> Calibration | None:
    """Return the calibration of a model; None if it is missing or of other weights.

    Args:
        folder: where the file lies; by default the model's directory.
        cache: where competitors are kept if the model has none.

    Raises:
        CalibrationError: the file is damaged.
    """
    path = (folder or encoder.directory) / CALIBRATION_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    model = golden_hash(encoder.directory)
    if f'"{model}"' not in text:  # of other weights; embedding competitors would be in vain
        return None
    return Calibration.from_json(text, path, require_competitors(encoder, cache or folder))


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Write the calibration of a model directory, atomically."""
    with atomic_write(directory / CALIBRATION_FILE) as file:
        file.write(calibration.to_json())


def require_calibration(
    encoder: Encoder, folder: Path, sample: Callable[[], Float32Array]
) -> Calibration:
    """Return the calibration of a model, or, with a warning, an estimate.

    Args:
        folder: where an estimate is kept for the next time, unless it is read-only.
        sample: returns image_embeds [n, embed_dim] to estimate from.

    Raises:
        CalibrationError: the model's calibration is damaged.
    """
    calibration = read_calibration(encoder, cache=folder)
    if calibration is not None:
        return calibration
    warnings.warn(
        f"{encoder.config.name} has no calibration: probabilities and the cut-off are guesses; "
        f"make one with: twotower calibrate {encoder.directory} PAIRS",
        stacklevel=3,
    )
    with contextlib.suppress(OSError, CalibrationError):
        kept = read_calibration(encoder, folder)
        if kept is not None:
            return kept
    calibration = estimate(encoder, sample(), folder)
    with contextlib.suppress(OSError):
        write_calibration(calibration, folder)
    return calibration


def text_curves(encoder: Encoder) -> TextCurves:
    """Return the curves that judge texts without a library: of the model's calibration, or typical.

    Raises:
        CalibrationError: the model's calibration is damaged.
    """
    folder = None
    with contextlib.suppress(OSError, PathError):
        folder = cache_folder() / "competitors" / competitors_key(encoder)
        folder.mkdir(parents=True, exist_ok=True)
    calibration = read_calibration(encoder, cache=folder)
    if calibration is not None:
        return calibration.text
    return TextCurves(require_competitors(encoder, folder), TYPICAL_NAME, TYPICAL_PHRASE)


def estimate(
    encoder: Encoder, image_embeds: Float32Array, folder: Path | None = None
) -> Calibration:
    """Estimate the calibration of a model without pictures of known content.

    The weights are those of other models; the background is that of `image_embeds`
    [n, embed_dim], the pictures that are searched.

    Args:
        folder: where the competitors are kept for the next time.
    """
    return Calibration(
        text=TextCurves(require_competitors(encoder, folder), TYPICAL_NAME, TYPICAL_PHRASE),
        image=TYPICAL_PICTURE,
        background=measure_background(image_embeds),
        precisions=TYPICAL_PRECISIONS,
        duplicate=TYPICAL_DUPLICATE,
        model=golden_hash(encoder.directory),
    )


def _curve(tree: dict[str, Any], features: int) -> LogisticCurve:
    weights = tuple(float(weight) for weight in tree["weights"])
    if len(weights) != features + 1:
        raise ValueError(f"{len(weights)} weights of {features} features")
    return LogisticCurve(weights, float(tree["cutoff"]))


def _encode(array: Float32Array, dtype: str) -> dict[str, Any]:
    content = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": list(array.shape), "base64": content}


def _decode(tree: dict[str, Any]) -> Float32Array:
    flat = np.frombuffer(base64.b64decode(tree["base64"]), np.dtype(tree["dtype"]))
    return flat.reshape(tree["shape"]).astype(np.float32)
