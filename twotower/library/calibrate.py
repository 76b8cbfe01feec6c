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
import contextlib
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twotower.encode.golden import model_hash

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.library.library import Library

CALIBRATION_FILE = "calibration.json"
SPREAD_RANK = 64  # directions in which the spread of pictures is kept; the rest counts as even

# For a model that was never calibrated: about what calibrated ones have.
TYPICAL_TEXT = (1.1, 0.7, -0.4, -5.0)
TYPICAL_IMAGE = (0.3, 0.7, -0.1, -5.3)
TYPICAL_CUTOFF = 0.35
TYPICAL_DUPLICATE = 0.95
TYPICAL_TAGS = (0.1, 2.7, 10.1, -9.2, -4.0)
TYPICAL_CUTOFFS = ((0.5, 0.5), (0.7, 0.7), (0.8, 0.8), (0.9, 0.94), (0.95, 0.98))
ESTIMATED_FROM = 5000  # pictures of the library
LARGEST = 5000  # library that curves are fitted on; of larger ones the competition is not known

Floats = NDArray[np.float32]


class CalibrationError(ValueError):
    """A calibration that cannot be read or made; the message says what to do."""


@dataclass(frozen=True)
class Background:
    """What queries of one kind and pictures in general look like, in one model's space.

    `pictures` [embed_dim] is the mean of image_embeds and `spread` [k, embed_dim] their
    covariance: the variance of a query's scores is the sum of (spread @ query) ** 2, plus `rest`.
    `queries` [embed_dim] is the mean of generic queries, and a picture's scores to those vary by
    `query_sd` around its own mean.
    """

    pictures: Floats
    spread: Floats
    rest: float
    queries: Floats
    query_sd: float

    def features(self, query: Floats, image_embeds: Floats, size: int) -> NDArray[np.float64]:
        """How far each picture stands out, twice, and the competition: [n, 3].

        Args:
            query: embed of a text or a picture [embed_dim].
            image_embeds: [n, embed_dim].
            size: among how many pictures these were found.
        """
        scores = image_embeds @ query
        variance = float(((self.spread @ query) ** 2).sum()) + self.rest
        for_query = (scores - self.pictures @ query) / np.sqrt(variance)
        for_picture = (scores - image_embeds @ self.queries) / self.query_sd
        competition = np.full(len(scores), np.log(np.clip(size, 1, LARGEST)))
        return np.stack([for_query, for_picture, competition], axis=1).astype(np.float64)

    def deviations(self, queries: Floats, image_embeds: Floats) -> Floats:
        """How far each picture stands out for each query among pictures in general [n, q]."""
        scores = (image_embeds - self.pictures) @ queries.T
        return np.asarray(scores / self.sds(queries), np.float32)

    def sds(self, queries: Floats) -> Floats:
        """How far the scores of queries [q, embed_dim] vary among pictures in general [q]."""
        return np.asarray(np.sqrt(((self.spread @ queries.T) ** 2).sum(axis=0) + self.rest))


@dataclass(frozen=True)
class Curve:
    """From features to a probability: the weights of a logistic curve, the last its constant.

    `cutoff` is the probability from which a picture is called a match: at that, nine of ten
    queries for what no picture shows found nothing when the curve was fitted.
    """

    background: Background
    weights: tuple[float, ...]
    cutoff: float

    def logits(self, query: Floats, image_embeds: Floats, size: int) -> NDArray[np.float64]:
        """The log-odds of a match [n]; arguments as in `Background.features`."""
        features = self.background.features(query, image_embeds, size)
        return np.asarray(features @ self.weights[:-1] + self.weights[-1])


@dataclass(frozen=True)
class Trust:
    """How far the log-odds that a curve gives tags of a kind are to be believed.

    `slope` and `constant` make of them what comes true on pictures that the model has not learned
    from; `cutoffs` are pairs, of a precision and the probability from which tags have it there.
    """

    slope: float
    constant: float
    cutoffs: tuple[tuple[float, float], ...]

    def cutoff(self, precision: float) -> float:
        """The probability from which tags have a precision; above 1 where the model is never so
        sure."""
        enough = [cutoff for reached, cutoff in self.cutoffs if reached >= precision - 1e-9]
        return min(enough, default=2.0)


@dataclass(frozen=True)
class TagCurve:
    """From tags and pictures to probabilities: here no pictures compete, each is judged alone.

    What many pictures show ("person") and what few do ("snowboarder") differ in how much the scores
    of their words vary over pictures, and in how far these words lie from generic queries. What is
    left is a tag's own: it is linear in the tag's vector, so that tags of the fit have an offset
    each, and others one between those of the tags that they are like.

    Attributes:
        distance: of generic queries from their mean; the unit of a tag's distance.
        weights: of the two deviations, the spread of the tag's scores, its distance, a constant.
        words: weights [embed_dim] of a tag's difference from generic queries.
        names: of the tags that the curve was fitted on, in lower case.
        known, others: what to make of the log-odds of these, and of all other tags.
    """

    background: Background
    distance: float
    weights: tuple[float, ...]
    words: Floats
    names: frozenset[str]
    known: Trust
    others: Trust

    def logits(
        self, tags: Floats, image_embeds: Floats, known: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The log-odds [n, t] that pictures [n, embed_dim] show what tags [t, embed_dim] say.

        Args:
            known: [t], of which the name is among `names`.
        """
        logits = np.tensordot(self.features(tags, image_embeds), self.weights[:-1], 1)
        logits += self.weights[-1] + self.differences(tags) @ self.words
        slopes = np.where(known, self.known.slope, self.others.slope)
        return np.asarray(
            logits * slopes + np.where(known, self.known.constant, self.others.constant)
        )

    def differences(self, tags: Floats) -> NDArray[np.float64]:
        """What `words` is of: [t, embed_dim]."""
        return ((tags - self.background.queries) / self.distance).astype(np.float64)

    def features(self, tags: Floats, image_embeds: Floats) -> NDArray[np.float64]:
        """What the weights are of: [n, t, 4]."""
        background = self.background
        scores = image_embeds @ tags.T
        sd, for_tag = background.sds(tags), background.deviations(tags, image_embeds)
        for_picture = (scores - (image_embeds @ background.queries)[:, None]) / background.query_sd
        distance = np.linalg.norm(tags - background.queries, axis=1) / self.distance
        facts = [np.broadcast_to(one, scores.shape) for one in (sd / background.query_sd, distance)]
        return np.stack([for_tag, for_picture, *facts], axis=-1).astype(np.float64)


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
    return calibration if calibration.model == model_hash(directory) else None


def library_calibration(library: Library) -> Calibration:
    """The calibration of a library's model, or, with a warning, one estimated from its pictures."""
    directory = library.model.directory
    calibration = read_calibration(directory)
    if calibration is not None:
        return calibration
    warnings.warn(
        f"{library.model.config.name} has no calibration: probabilities and the cut-off are "
        f"guesses; make one with: twotower calibrate {directory} PAIRS",
        stacklevel=2,
    )
    path = library.location / CALIBRATION_FILE
    with contextlib.suppress(OSError, CalibrationError):
        calibration = Calibration.from_json(path.read_text(encoding="utf-8"), path)
        if calibration.model == model_hash(directory):
            return calibration
    calibration = estimate(library.model, _some_vectors(library))
    with contextlib.suppress(OSError):  # a library that is read-only is estimated anew each time
        write_calibration(calibration, library.location)
    return calibration


def library_tag_curve(library: Library) -> TagCurve:
    """The curve of tags of a library's model, or, with a warning, a typical one."""
    calibration = library_calibration(library)
    if calibration.tags:
        return calibration.tags
    warnings.warn(
        f"the calibration of {library.model.config.name} knows nothing of tags: their "
        "probabilities are guesses; make it again with: twotower calibrate "
        f"{library.model.directory} PAIRS",
        stacklevel=2,
    )
    background = calibration.text.background
    queries = library.model.encode_text(background_texts())
    return simple_tag_curve(background, mean_distance(queries), TYPICAL_TAGS, TYPICAL_CUTOFFS)


def simple_tag_curve(
    background: Background,
    distance: float,
    weights: tuple[float, ...],
    cutoffs: tuple[tuple[float, float], ...],
) -> TagCurve:
    """One that knows nothing of single tags."""
    trust = Trust(1.0, 0.0, cutoffs)
    words = np.zeros_like(background.queries)
    return TagCurve(background, distance, weights, words, frozenset(), trust, trust)


def mean_distance(queries: Floats) -> float:
    """Of generic queries [n, embed_dim] from their mean."""
    return float(np.linalg.norm(queries - queries.mean(axis=0), axis=1).mean())


def estimate(model: Encoder, image_embeds: Floats) -> Calibration:
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
        model=model_hash(model.directory),
    )


def _some_vectors(library: Library) -> Floats:
    ids = library.vectors.ids()
    return library.vectors.get(ids[:: len(ids) // ESTIMATED_FROM + 1])


def write_calibration(calibration: Calibration, directory: Path) -> None:
    """Put a calibration into a model directory, whole or not at all."""
    path = directory / CALIBRATION_FILE
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(calibration.to_json(), encoding="utf-8")
    unfinished.replace(path)


def background_texts() -> list[str]:
    """Generic queries, of things and scenes of all kinds."""
    path = Path(__file__).parent / "background.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def measure_background(image_embeds: Floats, queries: Floats) -> Background:
    """What pictures [n, embed_dim] and generic queries [m, embed_dim] have in common."""
    pictures, mean = image_embeds.mean(axis=0), queries.mean(axis=0)
    centred = image_embeds - pictures
    _, lengths, directions = np.linalg.svd(
        centred.T @ centred / max(len(image_embeds) - 1, 1), hermitian=True
    )
    kept = min(SPREAD_RANK, len(lengths) - 1)
    spread = directions[:kept] * np.sqrt(lengths[:kept, None])
    residuals = image_embeds @ (queries - mean).T  # [n, m]
    return Background(
        pictures=pictures.astype(np.float32),
        spread=spread.astype(np.float16, order="C").astype(np.float32),
        rest=max(float(lengths[kept:].mean()), 1e-9),
        queries=mean.astype(np.float32),
        query_sd=max(float(residuals.std()), 1e-6),
    )


def no_background(embed_dim: int) -> Background:
    """One that leaves a cosine as it is."""
    nothing = np.zeros(embed_dim, np.float32)
    return Background(nothing, np.zeros((1, embed_dim), np.float32), 1.0, nothing, 1.0)


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
        Trust(float(one["slope"]), float(one["constant"]), _pairs(one["cutoffs"]))
        for one in (tree["known"], tree["others"])
    )
    names = frozenset(str(name) for name in tree["names"])
    return TagCurve(background, float(tree["distance"]), weights, words, names, known, others)


def _pairs(rows: list[list[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(precision), float(cutoff)) for precision, cutoff in rows)


def _encode(array: Floats, dtype: str) -> dict[str, Any]:
    content = base64.b64encode(array.astype(dtype).tobytes()).decode()
    return {"dtype": dtype, "shape": list(array.shape), "base64": content}


def _decode(tree: dict[str, Any]) -> Floats:
    flat = np.frombuffer(base64.b64decode(tree["base64"]), np.dtype(tree["dtype"]))
    return flat.reshape(tree["shape"]).astype(np.float32)
