"""The tags of a served library: counts, uncertain ones to review, verdicts and sidecars."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from twotower.metadata import sidecars
from twotower.pages.review import choose_questions
from twotower.serve.errors import RequestError
from twotower.tagging.corrections import Correction, correct, to_corrections
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag import DEFAULT_PRECISION, tag, write_sidecars
from twotower.tagging.tag_scorer import TagScorer
from twotower.tagging.tagger import TaggedPicture, Tagger

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.metadata.journal import UndoReport
    from twotower.metadata.sidecars import WriteReport
    from twotower.serve.lanes import Lane
    from twotower.tagging.vocabulary import Vocabulary

REVIEW_PICTURES = 2000  # whose tags are compared to choose what to ask, at most
MAX_SUGGESTIONS = 8  # tags of a picture that are shown although they are not assigned
LOWEST_SUGGESTION = 0.2  # probability of those
MAX_UNDOS = 1000  # verdicts that can be undone
Verdict: TypeAlias = tuple[int, str, bool | None]
"""The id of a picture, a tag, and True, False, or None to forget an earlier verdict."""


@dataclass(frozen=True)
class PictureTag:
    """A tag of a picture; `verdict` is a person's, None without one."""

    tag: str
    probability: float
    assigned: bool
    verdict: bool | None = None


@dataclass(frozen=True)
class TagReview:
    """A tag with uncertain pictures: id, probability, and True if it is assigned."""

    tag: str
    pictures: list[tuple[int, float, bool]]


class LibraryTags:
    """Tags of a library with the shipped vocabulary, at the default precision.

    All work runs in one lane. What is computed is kept until pictures, model or verdicts change.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._state: object = None
        self._vocabulary: Vocabulary | None = None
        self._tagger: Tagger | None = None
        self._scorer: TagScorer | None = None
        self._model: str | None = None  # of the scorer
        self._counts: list[tuple[str, int]] | None = None
        self._review: list[TagReview] | None = None
        self._undos: OrderedDict[str, list[Correction]] = OrderedDict()

    async def of_picture(self, number: int) -> list[PictureTag]:
        """Return the assigned tags of a picture, those with a verdict, and probable ones."""
        return await self._lane.run(lambda index: self._of_picture(index, number))

    async def counts(self) -> list[tuple[str, int]]:
        """Return assigned tags with the number of their pictures, the most frequent first."""
        return await self._lane.run(self._count)

    async def review(self, limit: int) -> list[TagReview]:
        """Return the tags on which verdicts are most useful, of a sample of a large library."""
        return (await self._lane.run(self._choose))[:limit]

    async def judge(self, verdicts: Sequence[Verdict]) -> str:
        """Keep verdicts, from which the tags learn at once; return a token to undo it.

        Raises:
            TaggingError: a tag or picture is unknown.
        """

        def keep(index: Index) -> str:
            before = correct(index, self._words(), verdicts)
            self._forget()
            while len(self._undos) >= MAX_UNDOS:
                self._undos.popitem(last=False)
            token = secrets.token_urlsafe(12)
            self._undos[token] = before
            return token

        return await self._lane.run(keep)

    async def check(self, verdicts: Sequence[Verdict]) -> None:
        """Check verdicts without keeping them.

        Raises:
            TaggingError: as `judge`.
        """
        await self._lane.run(lambda index: to_corrections(index, self._words(), verdicts))

    async def undo(self, token: str) -> int:
        """Undo verdicts; return their number.

        Raises:
            RequestError: 404, the token is unknown or was used.
        """

        def restore(index: Index) -> int:
            before = self._undos.pop(token, None)
            if before is None:
                raise RequestError(404, "nothing to undo under this token", field="undo")
            index.catalog.correct(before)
            self._forget()
            return len(before)

        return await self._lane.run(restore)

    async def write(self, *, dry_run: bool) -> WriteReport:
        """Write the assigned tags into sidecars, or report what would be written."""

        def write_all(index: Index) -> WriteReport:
            result = tag(index, self._words(), report=self._lane.report)
            return write_sidecars(index, result, dry_run=dry_run)

        return await self._lane.run(write_all)

    async def undo_write(self) -> UndoReport:
        """Undo the last writing of sidecars."""
        return await self._lane.run(lambda index: sidecars.undo(index.location))

    def _of_picture(self, index: Index, number: int) -> list[PictureTag]:
        tagger = self._ready(index)
        (tagged,) = tagger.tag_pictures([number])
        verdicts = self._verdicts(index, number)
        tags, suggestions = [], 0
        for column in np.argsort(-tagged.probabilities, kind="stable").tolist():
            name = str(tagger.tags[column])
            probability, assigned = float(tagged.probabilities[column]), tagged.assigned[column]
            if not assigned and name not in verdicts:
                if suggestions == MAX_SUGGESTIONS or probability < LOWEST_SUGGESTION:
                    continue
                suggestions += 1
            tags.append(PictureTag(name, probability, bool(assigned), verdicts.get(name)))
        return tags

    def _verdicts(self, index: Index, number: int) -> dict[str, bool]:
        verdicts = {}
        for correction in index.catalog.corrections():
            if correction.id == number and (match := self._words().find(correction.tag)):
                verdicts[str(match)] = correction.accepted
        return verdicts

    def _count(self, index: Index) -> list[tuple[str, int]]:
        tagger = self._ready(index)
        if self._counts is None:
            sums = np.zeros(len(tagger.tags), np.int64)
            for tagged in tagger.tag_pictures(index.catalog.select().tolist(), self._lane.report):
                sums += tagged.assigned
            order = np.argsort(-sums, kind="stable").tolist()
            self._counts = [(str(tagger.tags[i]), int(sums[i])) for i in order if sums[i]]
        return self._counts

    def _choose(self, index: Index) -> list[TagReview]:
        tagger = self._ready(index)
        if self._review is None:
            ids = index.catalog.select()
            if len(ids) > REVIEW_PICTURES:
                ids = np.sort(np.random.default_rng(0).choice(ids, REVIEW_PICTURES, replace=False))
            tagged = list(tagger.tag_pictures(ids.tolist(), self._lane.report))
            self._review = [
                TagReview(str(tagger.tags[column]), [_doubt(tagged[row], column) for row in rows])
                for column, rows in choose_questions(tagger, tagged)
            ]
        return self._review

    def _ready(self, index: Index) -> Tagger:
        """Return the tagger, made again after pictures, model or verdicts have changed."""
        catalog = index.catalog
        state = (catalog.get_setting("model"), catalog.next_id(), len(catalog))
        if state != self._state:
            self._forget()
            self._state = state
        if state[0] != self._model:
            self._scorer, self._model = None, state[0]
        if self._tagger is None:
            self._tagger = Tagger(
                index, self._words(), DEFAULT_PRECISION, self._lane.report, self._scorer
            )
            self._scorer = self._tagger.scorer
        return self._tagger

    def _forget(self) -> None:
        self._tagger = self._counts = self._review = None

    def _words(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = read_vocabulary(None)
        return self._vocabulary


def _doubt(tagged: TaggedPicture, column: int) -> tuple[int, float, bool]:
    probability, assigned = tagged.probabilities[column], tagged.assigned[column]
    return tagged.id, float(probability), bool(assigned)
