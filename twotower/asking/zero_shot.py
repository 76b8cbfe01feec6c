"""Answers by statements, judged by any encoder without training (Song et al. 2022, TAP-C).

Which of several answers is right, a softmax over their statements says. Whether one statement
holds needs something to compare it with: its contrary, or what this picture gets from everyday
words. Cosines to those tell how high a cosine is in this picture, in deviations. A logistic curve
over that, and over how much further a rival stands out (a cat, where a dog is asked for), gives the
probability. Where a trained head comes with the model, it chooses the answer to the kinds of
questions that it has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.asking.answer import Answered, Reply
from twotower.asking.english import with_article
from twotower.asking.head import Head, head_of
from twotower.asking.questions import Question, parse_question, plain
from twotower.encode.encoder import Encoder
from twotower.encode.prompts import EVERYDAY
from twotower.encode.stream import encode_stream
from twotower.errors import QuestionError
from twotower.inputs.pictures import Picture

# A logistic curve over deviations, fitted by `benchmarks/quality/asking.py --fit` on questions from
# flickr8k-val, with the third bundled model. Not on flickr8k-train, from which that model learned:
# there, what is true stands out too far. Deviations are much the same for other models.
SLOPE, RIVAL, ZERO = 1.38, 0.91, -1.33
LEAST_OF_TWO = 0.65  # less probable than this is an abstention, where two answers are possible
LEAST = 0.5  # where many are
PRESUMED = np.log(9)  # who counts things presumes that there are some: nine to one
# How often captions of flickr8k-train agree on each number of things; the model sees little of it.
NUMBERED = np.log([0.36, 0.49, 0.11, 0.03, 0.01])
LEARNED = ("colour", "activity")  # that the bundled head answers better
EVERYDAY_STATEMENTS = tuple(f"a photo of {with_article(word)}." for word in EVERYDAY)
REASON = (
    "asks for reasons or manners, which no statement about a picture answers; ask what, where, "
    "how many or whether, or a large model: --vlm URL"
)


def answer_all(
    pictures: Iterable[Picture],
    questions: Sequence[str],
    model: Encoder,
    answers: Sequence[str] = (),
    top: int | None = None,
    batch_size: int = 32,
) -> Iterator[Answered]:
    """Every question about every picture, in order; arguments as in `ask`."""
    asked = [_parse(question, answers) for question in questions]
    learned = any(isinstance(one, Question) and one.kind in LEARNED for one in asked)
    head = head_of(model.directory, model.engine) if learned else None
    judges = [one if isinstance(one, QuestionError) else Judge(one, model, head) for one in asked]
    everyday = model.encode_text(EVERYDAY_STATEMENTS)
    if head:
        stream = encode_stream(pictures, model.preprocess, _both(model, head), batch_size)
    else:
        stream = model.stream(pictures, batch_size)
    for encoded in stream:
        for question, judge in zip(questions, judges, strict=True):
            if isinstance(judge, QuestionError):
                yield Answered(encoded.source, question, error=judge)
            elif encoded.image_embeds is None:
                yield Answered(encoded.source, question, judge.question.kind, error=encoded.error)
            else:
                width = model.config.embed_dim
                image_embeds, cells = np.split(encoded.image_embeds, [width])
                seen = cells.reshape(-1, judge.head.config.vision_width) if judge.head else None
                replies, sure = judge.replies(image_embeds, everyday, seen)
                yield Answered(
                    *(encoded.source, question, judge.question.kind, tuple(replies[:top]), sure),
                    notes=judge.question.notes,
                    by="head" if judge.head else "zero-shot",
                )


def _both(model: Encoder, head: Head) -> Callable[[Float32Array], Float32Array]:
    """What computes image_embeds and behind them, in the same row, all cells."""

    def encode(pixel_values: Float32Array) -> Float32Array:
        cells = head.towers.of_pictures(pixel_values).reshape(len(pixel_values), -1)
        return np.concatenate([model.encode_pixels(pixel_values), cells], axis=1)

    return encode


class Judge:
    """A question with the text_embeds of its statements, for any number of pictures.

    Args:
        head: what chooses the answer, if it has learned this kind of question.
    """

    def __init__(self, question: Question, model: Encoder, head: Head | None = None) -> None:
        self.question, self.scale = question, model.logit_scale
        known = head.config.answers if head and question.kind in LEARNED else ()
        said = [one for one in known if one in question.answers]
        self.head = head if said else None
        self.names = said or list(question.answers)
        if self.head:
            self.columns = [known.index(one) for one in self.names]
            self.tokens = self.head.towers.of_questions([f"{plain(question.text)}?"])
            return
        if question.kind == "yes/no":
            others = (question.contrary,) if question.contrary else question.rivals
            statements = [question.statement, *others]
        else:
            statements = question.statements()
            if question.kind == "count":  # whether there is any at all is asked first
                statements.append(f"a photo of {question.noun}.")
        self.text_embeds = model.encode_text(statements)

    def replies(
        self, image_embeds: Float32Array, everyday: Float32Array, cells: Float32Array | None = None
    ) -> tuple[list[Reply], bool]:
        """The answers for a picture [embed_dim], most probable first, and whether one is sure.

        Args:
            everyday: text_embeds of everyday words [n, embed_dim].
            cells: what the head sees of the picture [cells, width].
        """
        replies, sure = self._replies(image_embeds, everyday, cells)
        return replies, sure and not self.question.weak

    def _replies(
        self, image_embeds: Float32Array, everyday: Float32Array, cells: Float32Array | None
    ) -> tuple[list[Reply], bool]:
        if self.head:
            assert cells is not None
            logits = self.head.logits(cells, *self.tokens)[0, self.columns]
            return _of_many(_ranked(self.names, _softmax(logits)))
        scores = (self.text_embeds @ image_embeds).astype(np.float64)
        if self.question.kind == "yes/no":
            return self._yes_no(scores, everyday @ image_embeds)
        if self.question.kind == "count":
            return self._count(scores, everyday @ image_embeds)
        return _of_many(_ranked(self.names, _softmax(self.scale * scores)))

    def _yes_no(
        self, scores: NDArray[np.float64], around: Float32Array
    ) -> tuple[list[Reply], bool]:
        first, others = float(scores[0]), scores[1:]
        if self.question.contrary:
            yes = statement_probability(first, around, contrary=float(others[0]))
        else:
            yes = statement_probability(first, around, others)
        if self.question.negated:
            yes = 1 - yes
        replies = _ranked(["yes", "no"], np.array([yes, 1 - yes]))
        return replies, max(yes, 1 - yes) >= LEAST_OF_TWO

    def _count(self, scores: NDArray[np.float64], around: Float32Array) -> tuple[list[Reply], bool]:
        some = statement_probability(float(scores[-1]), around, odds=PRESUMED)
        numbers = _softmax(self.scale * scores[:-1] + NUMBERED)
        return _of_many(_ranked(["0", *self.names], np.array([1 - some, *(some * numbers)])))


def statement_probability(
    score: float,
    around: NDArray[np.floating[Any]],
    rivals: Sequence[float] | NDArray[np.float64] = (),
    contrary: float | None = None,
    odds: float = 0.0,
) -> float:
    """How probable a statement is.

    Args:
        score: its cosine.
        around: cosines of the same picture to everyday words.
        rivals: cosines to what could be taken for it.
        contrary: cosine to its contrary, which then decides alone.
        odds: the logarithm of the odds beforehand.
    """
    spread = max(float(around.std()), 1e-6)
    if contrary is not None:
        logit = SLOPE * (score - contrary) / spread
    else:
        ahead = max(0.0, *(float(one) - score for one in rivals)) if len(rivals) else 0.0
        logit = SLOPE * (score - float(around.mean())) / spread - RIVAL * ahead / spread + ZERO
    return float(1 / (1 + np.exp(-np.clip(logit + odds, -50, 50))))


def _parse(text: str, answers: Sequence[str]) -> Question | QuestionError:
    """A question, or what is wrong with it."""
    try:
        question = parse_question(text, answers)
        if question.kind == "reason":
            raise QuestionError(f"{question.text!r} {REASON}")
    except QuestionError as error:
        return error
    return question


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


def _ranked(names: Sequence[str], probabilities: NDArray[np.float64]) -> list[Reply]:
    order = np.argsort(-probabilities, kind="stable")
    return [Reply(names[i], float(probabilities[i])) for i in order]


def _of_many(replies: list[Reply]) -> tuple[list[Reply], bool]:
    """Ranked replies, and whether the first is sure."""
    least = LEAST_OF_TWO if len(replies) == 2 else LEAST
    return replies, (replies[0].probability or 0) >= least
