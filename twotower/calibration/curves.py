"""Logistic curves from scores to the probability of a match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.calibration.captions import content_words
from twotower.calibration.competitors import COSINE_UNIT, Competitors, Standing, embed_names

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

NAME_WORDS = 2  # content words of a name; a longer query is a phrase


def is_phrase(text: str) -> bool:
    """Return True for a query that says more than the name of a thing."""
    return len(content_words(text)) > NAME_WORDS


@dataclass(frozen=True)
class LogisticCurve:
    """A logistic curve and the probability from which a picture is a match.

    Attributes:
        weights: of the features, and a constant.
        cutoff: at it, most queries without a matching picture return nothing, in sources that the
            curve was not fitted on.
    """

    weights: tuple[float, ...]
    cutoff: float

    def logits(self, features: Float64Array) -> Float64Array:
        """Return the log-odds [n] of features [n, k]."""
        return np.asarray(features @ self.weights[:-1] + self.weights[-1])


@dataclass(frozen=True)
class JudgedText:
    """A text to judge: a query, or a tag with all of its names.

    Attributes:
        phrase: True if it says more than the name of a thing.
        embed: [embed_dim].
        related_words, related_captions: the competitors that may mean the same.
    """

    phrase: bool
    embed: Float32Array
    related_words: BoolArray
    related_captions: BoolArray

    def features(
        self, image_embeds: Float32Array, standings: tuple[Standing, Standing]
    ) -> Float64Array:
        """Return the inputs of a curve: [n, 2] for a name, [n, 5] for a phrase.

        Args:
            image_embeds: [n, embed_dim].
            standings: of these pictures, by `Competitors.compare`.
        """
        words, captions = standings
        scores = image_embeds @ self.embed
        features = words.features(scores, self.related_words)
        if not self.phrase:
            return features
        by_captions = captions.features(scores, self.related_captions)
        cosines = scores[:, None] / COSINE_UNIT
        return np.concatenate([features, by_captions, cosines], axis=1)


def judged_text(competitors: Competitors, names: Sequence[str], embed: Float32Array) -> JudgedText:
    """Prepare a text.

    Args:
        names: different texts for the same thing.
        embed: of the thing [embed_dim].
    """
    return JudgedText(
        is_phrase(names[0]),
        embed,
        competitors.related_words(names, embed),
        competitors.related_captions(embed),
    )


def embed_queries(encoder: Encoder, texts: Sequence[str]) -> Float32Array:
    """Embed queries [n, embed_dim]: names of things by several templates, phrases as they are."""
    embeds = np.zeros((len(texts), encoder.config.embed_dim), np.float32)
    phrases = [row for row, text in enumerate(texts) if is_phrase(text)]
    names = [row for row, text in enumerate(texts) if not is_phrase(text)]
    if phrases:
        embeds[phrases] = encoder.encode_text([texts[row] for row in phrases])
    if names:
        embeds[names] = embed_names(encoder, [texts[row] for row in names])
    return embeds


@dataclass(frozen=True)
class TextCurves:
    """The curves of names and of phrases, over how a text stands out among competitors.

    Attributes:
        name: over the distances from competing words (`Standing.features`).
        phrase: over those from competing words and from competing captions, and the cosine.
    """

    competitors: Competitors
    name: LogisticCurve
    phrase: LogisticCurve

    def of(self, text: str) -> LogisticCurve:
        """Return the curve that judges a text."""
        return self.phrase if is_phrase(text) else self.name

    def prepare(self, names: Sequence[str], embed: Float32Array) -> JudgedText:
        """Prepare a text; arguments as in `judged_text`."""
        return judged_text(self.competitors, names, embed)

    def logits(self, texts: Sequence[JudgedText], image_embeds: Float32Array) -> Float64Array:
        """Return the log-odds [n, t] that pictures [n, embed_dim] match texts."""
        standings = self.competitors.compare(image_embeds)
        logits = np.zeros((len(image_embeds), len(texts)))
        for column, text in enumerate(texts):
            curve = self.phrase if text.phrase else self.name
            logits[:, column] = curve.logits(text.features(image_embeds, standings))
        return logits
