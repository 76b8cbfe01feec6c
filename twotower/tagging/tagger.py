"""Decide which tags of a vocabulary a picture gets: a probability for each, and a cut-off.

The words of a tag and the calibration of the model give log-odds, which corrections shift
(`feedback.py`). A tag is at least as probable as each kind of it, and the members of a group of
which exactly one applies share one probability. A tag is assigned from the probability at which
tags reached the requested precision when the model was calibrated. The verdict of a person on a tag
of a picture is final.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.tagging.detectors import SENTENCES, detector_logits, measure_pictures
from twotower.tagging.feedback import (
    Feedback,
    Verdicts,
    fit_feedback,
    read_corrections,
    read_keyword_verdicts,
    training_examples,
)
from twotower.tagging.tag_embeds import embed_sentences
from twotower.tagging.tag_scorer import TagScorer
from twotower.tagging.tag_tree import TagTree
from twotower.tagging.vocabulary import Tag, Vocabulary

if TYPE_CHECKING:
    from twotower.index.index import Index

CHUNK_SIZE = 1000  # pictures whose vectors are in memory at once
TRUSTED_CORRECTIONS = 5  # with so many, a tag is assigned although the calibration alone would not
DETECTOR_CUTOFF = 0.9  # at least; below, photographs on black would be screenshots
VERDICT_LOGIT = 30.0  # log-odds of a tag on which a person has decided


@dataclass(frozen=True)
class TaggedPicture:
    """The tags of a picture of the library, in the order of `Tagger.tags`.

    Attributes:
        id: the picture's id in the catalog.
        probabilities: of all tags [tags].
        assigned: which tags the picture gets [tags].
    """

    id: int
    probabilities: Float64Array
    assigned: BoolArray


class Tagger:
    """Tags the pictures of a library with a vocabulary.

    Attributes:
        tags: the tags that can be assigned, in the order of the vocabulary, without headings.
        cutoffs: the probabilities [tags] from which each is assigned; above 1 for tags that the
            model cannot assign at the requested precision.
        scorer: the log-odds of the tags by their words; corrections do not change it.
    """

    def __init__(
        self,
        index: Index,
        vocabulary: Vocabulary,
        precision: float = 0.8,
        report: ReportProgress = ignore_progress,
        scorer: TagScorer | None = None,
    ) -> None:
        """Embed the vocabulary and learn from the corrections.

        Args:
            precision: the share of assigned tags that shall be right.
            report: called with the number of tags that are embedded.
            scorer: that of another tagger for the same vocabulary and model, to be used again.

        Raises:
            LibraryError: nothing is indexed, or the model of the library has changed.
        """
        self._index = index
        self._tree = TagTree.of(vocabulary)
        self.tags: tuple[Tag, ...] = self._tree.tags
        self._background = index.calibration.background
        self.scorer = scorer or TagScorer.of(index, self.tags, report)
        self._detected = [column for column, tag in enumerate(self.tags) if tag.detector]
        corrections = read_corrections(index, vocabulary, self._tree.columns)
        keywords = read_keyword_verdicts(index, vocabulary, self._tree.columns)
        self._verdicts: Verdicts = {
            picture_id: keywords.get(picture_id, {}) | corrections.get(picture_id, {})
            for picture_id in keywords | corrections
        }
        self._feedback = self._fit_feedback(corrections, keywords)
        self.cutoffs = self._cutoffs(precision)

    def _cutoffs(self, precision: float) -> Float64Array:
        calibration = self._index.calibration
        # a search for the tag finds the picture too
        lowest = max(calibration.tag_cutoff(precision), calibration.text.name.cutoff)
        cutoffs = np.full(len(self.tags), lowest)
        cutoffs[list(self._tree.grouped)] = precision
        cutoffs[self._detected] = max(precision, DETECTOR_CUTOFF)
        for column, feedback in self._feedback.items():
            if len(feedback.weights) >= TRUSTED_CORRECTIONS:
                cutoffs[column] = min(cutoffs[column], precision)
        return cutoffs

    def tag_pictures(
        self, ids: Sequence[int], report: ReportProgress = ignore_progress
    ) -> Iterator[TaggedPicture]:
        """Yield the pictures `ids` with their tags, in that order.

        Args:
            report: called with the number of pictures that are measured or tagged.
        """
        for start in range(0, len(ids), CHUNK_SIZE):
            chunk = [int(picture_id) for picture_id in ids[start : start + CHUNK_SIZE]]

            def report_chunk(progress: Progress, start: int = start) -> None:
                report(Progress(start + progress.done, len(ids), stage="Tagging"))

            by_words, logits = self._logits(chunk, report_chunk)
            for picture_id, word_row, row in zip(chunk, by_words, logits, strict=True):
                assigned = self._assigned(picture_id, _probabilities(word_row))
                yield TaggedPicture(picture_id, _probabilities(row), assigned)
            report_chunk(Progress(len(chunk), len(chunk)))

    def _assigned(self, picture_id: int, probabilities: Float64Array) -> BoolArray:
        """Return which tags [tags] a picture gets: those above their cut-offs, and all that they
        are kinds of.

        Args:
            probabilities: of each tag without its kinds [tags].
        """
        assigned = probabilities >= self.cutoffs
        for column, accepted in self._verdicts.get(picture_id, {}).items():
            assigned[column] |= accepted
        for column in np.flatnonzero(assigned).tolist():
            assigned[self._tree.ancestors(column)] = True
        return assigned

    def _logits(self, ids: list[int], report: ReportProgress) -> tuple[Float64Array, Float64Array]:
        """Return the log-odds [n, tags] of each tag without its kinds, and with them.

        The former decide whether a tag is assigned: a tag and its kinds need not be equally well
        known, and of hundreds of kinds some are always a little probable.
        """
        image_embeds = self._index.vectors.get(np.array(ids, np.int64))
        logits = self.scorer.logits(image_embeds)
        self._apply_detectors(ids, image_embeds, logits, report)
        shifts = {
            column: feedback.shift(self._background, image_embeds)
            for column, feedback in self._feedback.items()
        }
        for column, shift in shifts.items():
            logits[:, column] += shift
        by_words = logits.copy()
        grouped = self._tree.grouped
        for column in reversed(range(len(self.tags))):  # children before their parents
            if (parent := self._tree.parents[column]) is not None and column not in grouped:
                logits[:, parent] = np.maximum(logits[:, parent], logits[:, column])
        self._share_groups(image_embeds, shifts, logits)
        by_words[:, list(grouped)] = logits[:, list(grouped)]
        for row, picture_id in enumerate(ids):
            for table in (by_words, logits):
                self._apply_verdicts(table[row], self._verdicts.get(picture_id, {}))
        return by_words, logits

    def _share_groups(
        self, image_embeds: Float32Array, shifts: dict[int, Float64Array], logits: Float64Array
    ) -> None:
        """Share the probability of each group's parent among its members."""
        for members in self._tree.groups:
            odds = self.scorer.group_logits(members, image_embeds)
            for position, column in enumerate(members):
                odds[:, position] += shifts.get(column, 0.0)
            shares = odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)
            if (parent := self._tree.parents[members[0]]) is not None:
                shares -= np.logaddexp(0, -logits[:, parent])[:, None]
            shares = np.minimum(shares, -1e-12)
            logits[:, members] = shares - np.log(-np.expm1(shares))

    def _apply_detectors(
        self,
        ids: list[int],
        image_embeds: Float32Array,
        logits: Float64Array,
        report: ReportProgress,
    ) -> None:
        if self._detected:
            measures = measure_pictures(self._index, ids, report)
            sentences = embed_sentences(self._index.encoder, SENTENCES)
            deviations = self._background.deviations(sentences, image_embeds)
            for column in self._detected:
                detector = self.tags[column].detector or ""
                logits[:, column] = detector_logits(detector, measures, deviations)

    def _apply_verdicts(self, logits: Float64Array, verdicts: dict[int, bool]) -> None:
        """Set the log-odds [tags] of rejected tags and their kinds, then of accepted tags and all
        that they are kinds of.
        """
        rejected = {column for column, accepted in verdicts.items() if not accepted}
        if rejected:
            for column in range(len(self.tags)):
                if rejected.intersection((column, *self._tree.ancestors(column))):
                    logits[column] = -VERDICT_LOGIT
        for column, accepted in verdicts.items():
            if accepted:
                logits[[column, *self._tree.ancestors(column)]] = VERDICT_LOGIT

    def _fit_feedback(self, corrections: Verdicts, keywords: Verdicts) -> dict[int, Feedback]:
        """Fit the shift of each corrected tag, from the vectors of the model in use."""
        feedback = {}
        for column, examples in training_examples(corrections, keywords).items():
            if self.tags[column].detector:
                continue  # decided by facts that are not in the vectors
            ids = np.array([picture_id for picture_id, _ in examples])
            accepted = np.array([verdict for _, verdict in examples])
            image_embeds = self._index.vectors.get(ids)
            logits = self._word_logits(column, image_embeds)
            feedback[column] = fit_feedback(self._background, image_embeds, logits, accepted)
        return feedback

    def _word_logits(self, column: int, image_embeds: Float32Array) -> Float64Array:
        """Return the log-odds [n] of a tag by its words; in a group, against the other members."""
        members = self._tree.group_of(column)
        if members is None:
            return self.scorer.logits(image_embeds)[:, column]
        odds = self.scorer.group_logits(members, image_embeds)
        position = members.index(column)
        rivals = np.logaddexp.reduce(np.delete(odds, position, axis=1), axis=1)
        return np.clip(odds[:, position] - rivals, -VERDICT_LOGIT, VERDICT_LOGIT)


def _probabilities(logits: Float64Array) -> Float64Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -VERDICT_LOGIT, VERDICT_LOGIT))))
