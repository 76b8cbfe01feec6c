"""Answers by statements, scored by any encoder without training (Song et al. 2022, TAP-C).

A softmax over the statements of several answers gives their probabilities. Whether a single
statement is true needs a comparison: with the opposite statement, or with everyday words. The
cosines of this picture with those tell how high the statement's cosine is, in standard deviations.
A logistic curve over that, and over how much higher a rival is (a cat, where the question is about
a dog), gives the probability; statements that say more than what is there ("the dog is running")
have a flatter curve. Captions also name what stands out little, such as the grass under a dog, so
this is right more often than the curve of search and tags, which is over the distance from the best
competing word (docs/measurements/asking.md). If a trained head is stored with the model, it chooses
the answer to the kinds of questions that it learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Float64Array
from twotower.asking.answer import Answered, Reply
from twotower.asking.english import with_article
from twotower.asking.head import Head, head_of
from twotower.asking.questions import Question, normalize_question, parse_question
from twotower.asking.statements import names_thing
from twotower.encode.encoder import Encoder
from twotower.encode.prompts import EVERYDAY_WORDS
from twotower.encode.stream import EncodedPicture, encode_stream
from twotower.errors import QuestionError
from twotower.inputs.pictures import Picture


@dataclass(frozen=True)
class StatementCurve:
    """A logistic curve over deviations from everyday words.

    Attributes:
        slope: for the deviation of a statement.
        rival_slope: for how much higher its best rival is.
        intercept: the log-odds of a statement that is no higher than everyday words.
    """

    slope: float
    rival_slope: float
    intercept: float


# Means of the two bundled models, fitted by `benchmarks/quality/asking.py --fit` on questions from
# flickr8k-val.
THING_CURVE = StatementCurve(1.8, 1.06, -1.96)  # for "there is a dog"
STATEMENT_CURVE = StatementCurve(0.39, 0.0, -0.36)  # for "the dog is running", "a red car"
OPPOSITE_SLOPE = 1.38  # for how much higher a statement is than its opposite
MIN_PROBABILITY_OF_TWO = 0.65  # of a sure reply, if two answers are possible
MIN_PROBABILITY = 0.5  # if more are
COUNT_PRIOR_LOG_ODDS = np.log(9)  # of at least one: who counts things presumes that there are some
# Logarithms of how often captions of flickr8k-train agree on 1, 2, 3, 4 and 5 things; the model
# alone hardly tells these numbers apart.
COUNT_LOG_PRIOR = np.log([0.36, 0.49, 0.11, 0.03, 0.01])
# Share of the trained head in the log-probabilities of the kinds of questions that it answers; the
# rest is zero-shot. The head learned the colours of what captions mention, seldom those of fruit.
HEAD_SHARES = {"colour": 0.5, "activity": 1.0}
MIN_SPREAD = 1e-6  # of the cosines with everyday words
EVERYDAY_STATEMENTS = tuple(f"a photo of {with_article(word)}." for word in EVERYDAY_WORDS)


def answer_all(
    pictures: Iterable[Picture],
    questions: Sequence[str],
    model: Encoder,
    answers: Sequence[str] = (),
    top: int | None = None,
    batch_size: int = 32,
) -> Iterator[Answered]:
    """Answer every question about every picture, in order; arguments as in `ask`."""
    parsed = [parse_answerable(question, answers) for question in questions]
    needs_head = any(
        isinstance(question, Question) and question.kind in HEAD_SHARES for question in parsed
    )
    head = head_of(model.directory, model.engine) if needs_head else None
    answerers = [
        question if isinstance(question, QuestionError) else Answerer(question, model, head)
        for question in parsed
    ]
    everyday = model.encode_text(EVERYDAY_STATEMENTS)
    if head:
        stream = encode_stream(pictures, model.preprocess, _with_cells(model, head), batch_size)
    else:
        stream = model.stream(pictures, batch_size)
    for encoded in stream:
        for question, answerer in zip(questions, answerers, strict=True):
            if isinstance(answerer, QuestionError):
                yield Answered(encoded.source, question, error=answerer)
            else:
                yield _answer(encoded, question, answerer, everyday, top)


def _answer(
    encoded: EncodedPicture,
    question: str,
    answerer: Answerer,
    everyday: Float32Array,
    top: int | None,
) -> Answered:
    kind, head = answerer.question.kind, answerer.head
    if encoded.image_embeds is None:
        return Answered(encoded.source, question, kind, error=encoded.error)
    image_embeds, flat_cells = np.split(encoded.image_embeds, [everyday.shape[1]])
    cells = flat_cells.reshape(-1, head.config.vision_width) if head else None
    replies, sure = answerer.replies(image_embeds, everyday, cells)
    return Answered(
        *(encoded.source, question, kind, tuple(replies[:top]), sure),
        notes=answerer.question.notes,
        by="head" if head else "zero-shot",
    )


def _with_cells(model: Encoder, head: Head) -> Callable[[Float32Array], Float32Array]:
    """Return a function from pixel_values to rows of image_embeds followed by all cells."""

    def encode(pixel_values: Float32Array) -> Float32Array:
        cells = head.towers.patches(pixel_values).reshape(len(pixel_values), -1)
        return np.concatenate([model.encode_pixels(pixel_values), cells], axis=1)

    return encode


class Answerer:
    """Answers one question about any number of pictures.

    Attributes:
        question: the parsed question.
        head: the trained head that takes part in the answer, or None.
    """

    def __init__(self, question: Question, model: Encoder, head: Head | None = None) -> None:
        """Embed the statements of the question.

        Args:
            head: takes part in the answer if it learned this kind of question.
        """
        self.question = question
        self._scale = model.logit_scale
        head_answers = head.config.answers if head and question.kind in HEAD_SHARES else ()
        common = [answer for answer in head_answers if answer in question.answers]
        self.head = head if common else None
        self._names = common or list(question.answers)
        if self.head:
            self._columns = [head_answers.index(name) for name in self._names]
            self._tokens = self.head.towers.tokens([f"{normalize_question(question.text)}?"])
            self._rows = [list(question.answers).index(name) for name in common]
        self._text_embeds = model.encode_text(_statements(question))

    def replies(
        self, image_embeds: Float32Array, everyday: Float32Array, cells: Float32Array | None = None
    ) -> tuple[list[Reply], bool]:
        """Answer the question about a picture.

        Args:
            image_embeds: of the picture [embed_dim].
            everyday: text_embeds of everyday words [n, embed_dim].
            cells: the inputs of the head for the picture [cells, width].

        Returns:
            The replies, most probable first, and whether the first is sure.
        """
        replies, sure = self._replies(image_embeds, everyday, cells)
        return replies, sure and not self.question.weak

    def _replies(
        self, image_embeds: Float32Array, everyday: Float32Array, cells: Float32Array | None
    ) -> tuple[list[Reply], bool]:
        scores = (self._text_embeds @ image_embeds).astype(np.float64)
        if self.head:
            assert cells is not None
            logits = self.head.logits(cells, *self._tokens)[0, self._columns]
            share = HEAD_SHARES[self.question.kind]
            mixed = share * logits + (1 - share) * self._scale * scores[self._rows]
            return _judged(_ranked(self._names, _softmax(mixed)))
        if self.question.kind == "yes/no":
            return self._yes_or_no(scores, everyday @ image_embeds)
        if self.question.kind == "count":
            return self._count(scores, everyday @ image_embeds)
        return _judged(_ranked(self._names, _softmax(self._scale * scores)))

    def _yes_or_no(
        self, scores: Float64Array, everyday_scores: Float32Array
    ) -> tuple[list[Reply], bool]:
        score, rivals = float(scores[0]), scores[1:]
        if self.question.opposite:
            yes = opposite_probability(score, float(rivals[0]), everyday_scores)
        else:
            curve = curve_of(self.question.statement)
            yes = statement_probability(score, everyday_scores, curve, rivals)
        if self.question.negated:
            yes = 1 - yes
        replies = _ranked(["yes", "no"], np.array([yes, 1 - yes]))
        return replies, max(yes, 1 - yes) >= MIN_PROBABILITY_OF_TWO

    def _count(
        self, scores: Float64Array, everyday_scores: Float32Array
    ) -> tuple[list[Reply], bool]:
        present = statement_probability(
            float(scores[-1]), everyday_scores, log_odds=COUNT_PRIOR_LOG_ODDS
        )
        numbers = _softmax(self._scale * scores[:-1] + COUNT_LOG_PRIOR)
        probabilities = np.array([1 - present, *(present * numbers)])
        return _judged(_ranked(["0", *self._names], probabilities))


def _statements(question: Question) -> list[str]:
    """Return the statements to score; of a yes/no question, its statement and the compared ones."""
    if question.kind == "yes/no":
        compared = (question.opposite,) if question.opposite else question.rivals
        return [question.statement, *compared]
    if question.kind == "count":  # the last one decides whether there are any
        return [*question.statements(), f"a photo of {question.noun}."]
    return question.statements()


def curve_of(statement: str) -> StatementCurve:
    """Return the curve that judges a statement."""
    return THING_CURVE if names_thing(statement) else STATEMENT_CURVE


def statement_probability(
    score: float,
    everyday_scores: NDArray[np.floating[Any]],
    curve: StatementCurve = THING_CURVE,
    rivals: Sequence[float] | Float64Array = (),
    log_odds: float = 0.0,
) -> float:
    """Return the probability that a statement about a picture is true.

    Args:
        score: its cosine.
        everyday_scores: cosines of the picture with everyday words.
        rivals: cosines of statements about things easily mistaken for its thing.
        log_odds: prior log-odds.
    """
    spread = max(float(everyday_scores.std()), MIN_SPREAD)
    ahead = max(0.0, *(float(rival) - score for rival in rivals)) if len(rivals) else 0.0
    deviation = (score - float(everyday_scores.mean())) / spread
    logit = curve.slope * deviation - curve.rival_slope * ahead / spread + curve.intercept
    return _sigmoid(logit + log_odds)


def opposite_probability(
    score: float, opposite: float, everyday_scores: NDArray[np.floating[Any]]
) -> float:
    """Return the probability that a statement is true, and its opposite is not.

    Args:
        score, opposite: their cosines.
        everyday_scores: cosines of the picture with everyday words.
    """
    spread = max(float(everyday_scores.std()), MIN_SPREAD)
    return _sigmoid(OPPOSITE_SLOPE * (score - opposite) / spread)


def _sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -50, 50))))


def parse_answerable(text: str, answers: Sequence[str] = ()) -> Question | QuestionError:
    """Return the parsed question, or the error of a text that cannot be answered."""
    try:
        question = parse_question(text, answers)
    except QuestionError as error:
        return error
    if question.kind == "reason":
        return QuestionError(
            repr(question.text),
            "a question about reasons or methods cannot be answered zero-shot",
            "ask what, where, how many or whether, or ask a large model: --vlm URL",
        )
    return question


def _softmax(logits: Float64Array) -> Float64Array:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def _ranked(names: Sequence[str], probabilities: Float64Array) -> list[Reply]:
    order = np.argsort(-probabilities, kind="stable")
    return [Reply(names[i], float(probabilities[i])) for i in order]


def _judged(replies: list[Reply]) -> tuple[list[Reply], bool]:
    """Return ranked replies, and whether the first is sure."""
    least = MIN_PROBABILITY_OF_TWO if len(replies) == 2 else MIN_PROBABILITY
    return replies, (replies[0].probability or 0) >= least
