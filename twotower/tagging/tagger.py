"""Which tags of a vocabulary a picture gets: a probability for each, and where it is enough.

The words of a tag and the model's calibration give log-odds; corrections bend them (`teach.py`);
what is a poodle is a dog; of a group where exactly one applies, the members share one probability.
A tag is given from the probability at which tags had the wished precision when the model was
calibrated. What a person has said of a tag and a picture is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.calibration.calibration import require_tag_curve
from twotower.calibration.tag_curve import TagCurve
from twotower.tagging.detectors import SENTENCES, judge_looks, measure_pictures
from twotower.tagging.feedback import Feedback, learn, rejected_tags
from twotower.tagging.tag_embeds import sentence_vectors, tag_vectors
from twotower.tagging.vocabulary import Tag, TagPath, Vocabulary

if TYPE_CHECKING:
    from twotower.index.index import Index
from twotower.arrays import BoolArray, Float64Array

Verdicts = dict[int, dict[int, bool]]  # by picture and tag

AT_ONCE = 1000  # pictures
FEEDBACK_WEIGHT = 5  # corrections from which a tag is believed where the model as it came is not
SURE = 30.0  # log-odds of what a person has said
GROUP_SLOPE = 1.5  # of a member's deviation; of searches in words it is about as steep


@dataclass(frozen=True)
class TaggedPicture:
    """One picture of the library: `probabilities` [tags] of all, and which are `given` [tags]."""

    id: int
    probabilities: Float64Array
    given: BoolArray


@dataclass(frozen=True)
class Words:
    """What a vocabulary says, in a model's space: log-odds that pictures show its tags."""

    curve: TagCurve
    vectors: Float32Array  # [tags, embed_dim]
    known: BoolArray  # [tags], whether the curve was fitted on them
    negatives: Float32Array  # [k, embed_dim]
    negative_of: NDArray[np.int64]  # [k], the tag of each

    def logits(self, image_embeds: Float32Array) -> Float64Array:
        """[n, tags], of each tag by itself."""
        logits = self.curve.logits(self.vectors, image_embeds, self.known)
        if len(self.negatives):
            new = np.zeros(len(self.negatives), bool)
            against = self.curve.logits(self.negatives, image_embeds, new)
            self._take_off(logits, against, range(len(self.vectors)))
        return logits

    def odds(self, members: Sequence[int], image_embeds: Float32Array) -> Float64Array:
        """[n, members], of the tags of a group against one another.

        Here a tag's own commonness says nothing, only how it stands out against itself.
        """

        def standing_out(vectors: Float32Array) -> Float64Array:
            deviations = self.curve.background.deviations(vectors, image_embeds)
            return GROUP_SLOPE * deviations.astype(np.float64)

        odds = standing_out(self.vectors[members])
        if len(self.negatives):
            self._take_off(odds, standing_out(self.negatives), members)
        return odds

    def _take_off(self, logits: Float64Array, against: Float64Array, tags: Sequence[int]) -> None:
        """What is more like a negative than like its tag is not that."""
        for column, tag in enumerate(tags):
            own = self.negative_of == tag
            if own.any():
                worst = against[:, own].max(axis=1)
                logits[:, column] -= np.logaddexp(0, worst - logits[:, column])


class Tagger:
    """Judges the pictures of a library by a vocabulary.

    Attributes:
        tags: those that are judged, in the order of the vocabulary; headings are not among them.
        cutoffs: the probabilities [tags] from which each is given; above 1 for tags of which the
            model is never so sure.
    """

    def __init__(
        self,
        index: Index,
        vocabulary: Vocabulary,
        precision: float = 0.9,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Read the corrections and put the vocabulary into the model's space.

        Args:
            precision: the share of given tags that shall be right.
            progress: called with how many more tags are ready, until it was all of `tags`.
        """
        self._index = index
        self.tags = tuple(tag for tag in vocabulary.tags if not tag.heading)
        self._curve = require_tag_curve(index.encoder, index.calibration)
        self._words = words(index, self.tags, self._curve, progress)
        self._places = {tag.path: place for place, tag in enumerate(self.tags)}
        self._groups = _groups(vocabulary, self._places)
        self._grouped = {place for members in self._groups for place in members}
        known, others = self._curve.fitted.cutoff(precision), self._curve.unfitted.cutoff(precision)
        self.cutoffs = np.where(self._words.known, known, others)
        self._detected = [place for place, tag in enumerate(self.tags) if tag.detector]
        self.cutoffs[[*self._grouped, *self._detected]] = precision
        self._parents = _parents(self.tags, self._places)
        said, keywords = self._read_corrections(vocabulary), self._read_keywords(vocabulary)
        self._verdicts = {
            number: keywords.get(number, {}) | said.get(number, {}) for number in keywords | said
        }
        self._lessons = self._learn(said, keywords)
        for tag, lesson in self._lessons.items():
            if len(lesson.weights) >= FEEDBACK_WEIGHT:
                self.cutoffs[tag] = min(self.cutoffs[tag], precision)

    def judge(
        self, ids: Sequence[int], progress: Callable[[int], None] = lambda count: None
    ) -> Iterator[TaggedPicture]:
        """Every picture of `ids` with its tags, in that order.

        Args:
            progress: called with how many more pictures were looked at for the detectors.
        """
        for start in range(0, len(ids), AT_ONCE):
            some = [int(one) for one in ids[start : start + AT_ONCE]]
            own, logits = self._logits(some, progress)
            for number, own_row, row in zip(some, own, logits, strict=True):
                given = self._given(number, _probabilities(own_row))
                yield TaggedPicture(number, _probabilities(row), given)

    def _given(self, number: int, own: Float64Array) -> BoolArray:
        """Which tags [tags] a picture gets by probabilities of their own: with each also what it is
        a kind of."""
        given = own >= self.cutoffs
        for tag, accepted in self._verdicts.get(number, {}).items():
            given[tag] |= accepted
        for tag in np.flatnonzero(given).tolist():
            given[self._above(tag)] = True
        return given

    def _logits(
        self, ids: list[int], progress: Callable[[int], None]
    ) -> tuple[Float64Array, Float64Array]:
        """[n, tags], twice: by each tag's own words and lessons, and no less than any kind of it.

        The first decide what is given: a tag and a kind of it need not be equally well known, and
        one of hundreds of kinds is always a little probable.
        """
        image_embeds = self._index.vectors.get(np.array(ids, np.int64))
        logits = self._words.logits(image_embeds)
        self._detect(ids, image_embeds, logits, progress)
        lessons = {
            tag: lesson.departure(self._curve.background, image_embeds)
            for tag, lesson in self._lessons.items()
        }
        for tag, departure in lessons.items():
            logits[:, tag] += departure
        own = logits.copy()
        for tag in reversed(range(len(self.tags))):  # children before what they are a kind of
            if (parent := self._parents[tag]) is not None and tag not in self._grouped:
                logits[:, parent] = np.maximum(logits[:, parent], logits[:, tag])
        self._choose(image_embeds, lessons, logits)
        grouped = list(self._grouped)
        own[:, grouped] = logits[:, grouped]
        for row, number in enumerate(ids):
            for some in (own, logits):
                self._obey(some[row], self._verdicts.get(number, {}))
        return own, logits

    def _choose(
        self, image_embeds: Float32Array, lessons: dict[int, Float64Array], logits: Float64Array
    ) -> None:
        """Share out each group: its members, if what they belong to is there at all."""
        for members in self._groups:
            odds = self._words.odds(members, image_embeds)
            for column, tag in enumerate(members):
                odds[:, column] += lessons.get(tag, 0.0)
            shares = odds - np.logaddexp.reduce(odds, axis=1, keepdims=True)
            if (parent := self._parents[members[0]]) is not None:
                shares -= np.logaddexp(0, -logits[:, parent])[:, None]
            shares = np.minimum(shares, -1e-12)
            logits[:, members] = shares - np.log(-np.expm1(shares))

    def _detect(
        self,
        ids: list[int],
        image_embeds: Float32Array,
        logits: Float64Array,
        progress: Callable[[int], None],
    ) -> None:
        if self._detected:
            measures = measure_pictures(self._index, ids, progress)
            sentences = sentence_vectors(self._index.encoder, SENTENCES)
            deviations = self._curve.background.deviations(sentences, image_embeds)
            for place in self._detected:
                detector = self.tags[place].detector or ""
                logits[:, place] = judge_looks(detector, measures, deviations)

    def _obey(self, logits: Float64Array, verdicts: dict[int, bool]) -> None:
        """What was rejected is not there, nor any kind of it; what was accepted is, with all above.

        Where the two meet, the accepted one counts.
        """
        rejected = {tag for tag, accepted in verdicts.items() if not accepted}
        if rejected:
            for place in range(len(self.tags)):
                if rejected.intersection((place, *self._above(place))):
                    logits[place] = -SURE
        for tag, accepted in verdicts.items():
            if accepted:
                logits[[tag, *self._above(tag)]] = SURE

    def _above(self, tag: int) -> list[int]:
        """What a tag is a kind of."""
        found = []
        parent = self._parents[tag]
        while parent is not None:
            found.append(parent)
            parent = self._parents[parent]
        return found

    def _read_corrections(self, vocabulary: Vocabulary) -> Verdicts:
        """What a person has said: tags taken out of sidecars, and corrections, which win."""
        catalog = self._index.catalog
        found: Verdicts = defaultdict(dict)
        known, readable = catalog.file_states(), set(catalog.select().tolist())
        for path, tags in rejected_tags(self._index.root).items():
            for rejected in tags:
                place = self._place(vocabulary.find_foreign("|".join(rejected)))
                if place is not None and path in known and known[path].id in readable:
                    found[known[path].id][place] = False
        corrections = [(one, vocabulary.find(one.tag)) for one in catalog.corrections()]
        for one, tag in sorted(corrections, key=lambda pair: pair[1] is not None):  # exact ones win
            place = self._place(tag or vocabulary.find_foreign(one.tag))
            if place is not None and one.id is not None:
                found[one.id][place] = one.accepted
        return dict(found)

    def _read_keywords(self, vocabulary: Vocabulary) -> Verdicts:
        """The tags that a person has given, as the index has them."""
        found: Verdicts = defaultdict(dict)
        for number, keywords in self._index.catalog.keywords().items():
            for keyword in keywords:
                if (place := self._place(vocabulary.find(keyword))) is not None:
                    found[number][place] = True
        return dict(found)

    def _place(self, tag: Tag | None) -> int | None:
        return None if tag is None else self._places[tag.path]

    def _learn(self, said: Verdicts, keywords: Verdicts) -> dict[int, Feedback]:
        """By tag; from the vectors that the pictures have in the model of now.

        Keywords say only yes, which alone would push a tag up everywhere: of them there are no more
        than balance what was rejected.
        """
        taught: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        lacking: dict[int, int] = defaultdict(int)  # examples that are accepted
        for number, verdicts in said.items():
            for tag, verdict in verdicts.items():
                taught[tag].append((number, verdict))
                lacking[tag] += -1 if verdict else 1
        for number in sorted(keywords, reverse=True):  # the latest first
            for tag in keywords[number]:
                if lacking[tag] > 0 and tag not in said.get(number, {}):
                    taught[tag].append((number, True))
                    lacking[tag] -= 1
        lessons = {}
        for tag, examples in taught.items():
            if self.tags[tag].detector:
                continue  # judged by other facts than the vectors have
            image_embeds = self._index.vectors.get(np.array([one for one, _ in examples]))
            accepted = np.array([verdict for _, verdict in examples])
            logits = self._untaught(tag, image_embeds)
            lessons[tag] = learn(self._curve.background, image_embeds, logits, accepted)
        return lessons

    def _untaught(self, tag: int, image_embeds: Float32Array) -> Float64Array:
        """Log-odds [n] that the words give a tag; in a group, against the other members."""
        for members in self._groups:
            if tag in members:
                odds = self._words.odds(members, image_embeds)
                column = members.index(tag)
                others = np.logaddexp.reduce(np.delete(odds, column, axis=1), axis=1)
                return np.clip(odds[:, column] - others, -SURE, SURE)
        return self._words.logits(image_embeds)[:, tag]


def words(
    index: Index,
    tags: Sequence[Tag],
    curve: TagCurve,
    progress: Callable[[int], None] = lambda count: None,
) -> Words:
    """The tags in the space of the library's model, kept beside its catalog."""
    vectors = tag_vectors(index.encoder, tags, index.location, progress)
    known = np.array([tag.name.casefold() in curve.names for tag in tags], bool)
    sentences = [text for tag in tags for text in tag.negatives]
    places = [place for place, tag in enumerate(tags) for _ in tag.negatives]
    negatives = sentence_vectors(index.encoder, sentences)
    return Words(curve, vectors, known, negatives, np.array(places, np.int64))


def _probabilities(logits: Float64Array) -> Float64Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -SURE, SURE))))


def _groups(vocabulary: Vocabulary, places: dict[TagPath, int]) -> list[list[int]]:
    """The members of each group of which exactly one applies."""
    groups = []
    for heading in vocabulary.tags:
        if heading.one:
            members = [place for path, place in places.items() if path[:-1] == heading.path]
            if members:
                groups.append(members)
    return groups


def _parents(tags: Sequence[Tag], places: dict[TagPath, int]) -> list[int | None]:
    """What each tag is a kind of; headings between the two are passed over."""
    parents: list[int | None] = []
    for tag in tags:
        above = (places.get(tag.path[:end]) for end in range(len(tag.path) - 1, 0, -1))
        parents.append(next((place for place in above if place is not None), None))
    return parents
