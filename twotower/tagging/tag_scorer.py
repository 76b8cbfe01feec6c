"""Log-odds of tags by their words, in the space of a library's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from twotower.calibration.tag_curve import TagCurve
from twotower.progress import ReportProgress, ignore_progress
from twotower.tagging.tag_embeds import embed_sentences, embed_tags

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.tagging.vocabulary import Tag

# Slope of a member's log-odds over its deviation; about that of searches in words.
GROUP_SLOPE = 1.5


@dataclass(frozen=True)
class TagScorer:
    """Scores pictures for the tags of a vocabulary, by the tags' names and sentences.

    Attributes:
        curve: the calibration of the model's tags.
        text_embeds: of the tags [tags, embed_dim].
        fitted: which tags the curve was fitted on [tags].
        negative_embeds: text_embeds of the negatives [k, embed_dim].
        negative_columns: the tag that each negative belongs to [k].
    """

    curve: TagCurve
    text_embeds: Float32Array
    fitted: BoolArray
    negative_embeds: Float32Array
    negative_columns: Int64Array

    @classmethod
    def of(
        cls,
        index: Index,
        tags: Sequence[Tag],
        curve: TagCurve,
        report: ReportProgress = ignore_progress,
    ) -> TagScorer:
        """Embed `tags` by the model of a library; their embeds are kept beside its catalog."""
        text_embeds = embed_tags(index.encoder, tags, index.location, report)
        fitted = np.array([tag.name.casefold() in curve.names for tag in tags], bool)
        sentences = [sentence for tag in tags for sentence in tag.negatives]
        columns = [column for column, tag in enumerate(tags) for _ in tag.negatives]
        negative_embeds = embed_sentences(index.encoder, sentences)
        return cls(curve, text_embeds, fitted, negative_embeds, np.array(columns, np.int64))

    def logits(self, image_embeds: Float32Array) -> Float64Array:
        """Return the log-odds [n, tags] that pictures [n, embed_dim] show each tag by itself."""
        logits = self.curve.logits(self.text_embeds, image_embeds, self.fitted)
        if len(self.negative_embeds):
            unfitted = np.zeros(len(self.negative_embeds), bool)
            negatives = self.curve.logits(self.negative_embeds, image_embeds, unfitted)
            self._subtract_negatives(logits, negatives, range(len(self.text_embeds)))
        return logits

    def group_logits(self, members: Sequence[int], image_embeds: Float32Array) -> Float64Array:
        """Return unnormalised log-probabilities [n, members] of the tags of a group.

        They depend on how far a picture stands out for a tag against other pictures, and not on
        how common the tag is.
        """
        logits = self._deviations(self.text_embeds[members], image_embeds)
        if len(self.negative_embeds):
            negatives = self._deviations(self.negative_embeds, image_embeds)
            self._subtract_negatives(logits, negatives, members)
        return logits

    def _deviations(self, text_embeds: Float32Array, image_embeds: Float32Array) -> Float64Array:
        deviations = self.curve.background.deviations(text_embeds, image_embeds)
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
