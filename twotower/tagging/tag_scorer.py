"""Log-odds of tags by their words, in the space of a library's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.calibration.calibration import Calibration
from twotower.calibration.curves import JudgedText
from twotower.progress import ReportProgress, ignore_progress
from twotower.tagging.tag_embeds import embed_sentences, embed_tags

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.tagging.vocabulary import Tag

# Slope of a member's log-odds over its deviation; about that of searches in words.
GROUP_SLOPE = 1.5


@dataclass(frozen=True)
class TagScorer:
    """Scores pictures for the tags of a vocabulary, as a search for their names would.

    Attributes:
        calibration: of the model.
        tags: the tags, as texts to judge.
        negatives: sentences for things that are easily mistaken for a tag [k].
        negative_columns: the tag that each negative belongs to [k].
    """

    calibration: Calibration
    tags: list[JudgedText]
    negatives: list[JudgedText]
    negative_columns: Int64Array

    @classmethod
    def of(
        cls, index: Index, tags: Sequence[Tag], report: ReportProgress = ignore_progress
    ) -> TagScorer:
        """Embed `tags` by the model of a library; their embeds are kept beside its catalog."""
        curves = index.calibration.text
        text_embeds = embed_tags(index.encoder, tags, index.location, report)
        sentences = [sentence for tag in tags for sentence in tag.negatives]
        columns = [column for column, tag in enumerate(tags) for _ in tag.negatives]
        negative_embeds = embed_sentences(index.encoder, sentences)
        return cls(
            index.calibration,
            [curves.prepare(tag.names, row) for tag, row in zip(tags, text_embeds, strict=True)],
            [
                curves.prepare([tags[column].name], row)
                for column, row in zip(columns, negative_embeds, strict=True)
            ],
            np.array(columns, np.int64),
        )

    def logits(self, image_embeds: Float32Array) -> Float64Array:
        """Return the log-odds [n, tags] that pictures [n, embed_dim] show each tag by itself."""
        logits = self.calibration.text.logits([*self.tags, *self.negatives], image_embeds)
        logits, negatives = np.split(logits, [len(self.tags)], axis=1)
        self._subtract_negatives(logits, negatives, range(len(self.tags)))
        return logits

    def group_logits(self, members: Sequence[int], image_embeds: Float32Array) -> Float64Array:
        """Return unnormalised log-probabilities [n, members] of the tags of a group.

        They depend on how far a picture stands out for a tag against other pictures, and not on
        how common the tag is.
        """
        logits = self._deviations([self.tags[member] for member in members], image_embeds)
        negatives = self._deviations(self.negatives, image_embeds)
        self._subtract_negatives(logits, negatives, members)
        return logits

    def _deviations(self, texts: Sequence[JudgedText], image_embeds: Float32Array) -> Float64Array:
        if not texts:
            return np.zeros((len(image_embeds), 0))
        embeds = np.stack([text.embed for text in texts])
        deviations = self.calibration.background.deviations(embeds, image_embeds)
        return GROUP_SLOPE * deviations.astype(np.float64)

    def _subtract_negatives(
        self, logits: Float64Array, negatives: Float64Array, tags: Sequence[int]
    ) -> None:
        """Lower the log-odds of pictures that are closer to a negative than to its tag."""
        for column, tag in enumerate(tags):
            of_tag = self.negative_columns == tag
            if of_tag.any():
                worst = negatives[:, of_tag].max(axis=1)
                logits[:, column] -= np.logaddexp(0, worst - logits[:, column])
