"""Answers without training: consistent probabilities, and answers any good model gives."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twotower
from twotower.asking.answer import Answered
from twotower.asking.questions import parse_question
from twotower.asking.zero_shot import (
    STATEMENT_CURVE,
    THING_CURVE,
    StatementCurve,
    curve_of,
    opposite_probability,
    statement_probability,
)
from twotower.encode.encoder import Encoder
from twotower.errors import PictureError, QuestionError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def model() -> Encoder:
    return twotower.load("base")


def ask(model: Encoder, picture: str, question: str, **options: object) -> Answered:
    [answered] = twotower.ask(PHOTOS / picture, question, model=model, **options)  # type: ignore[arg-type]
    return answered


def test_obvious_answers(model: Encoder) -> None:
    assert ask(model, "elephant.png", "is it an elephant or a dog?").answer == "elephant"
    assert ask(model, "cat.jpg", "is there a cat?").answer == "yes"
    assert ask(model, "cat.jpg", "is there an aeroplane?").answer == "no"
    assert ask(model, "cat.jpg", "is there no cat?").answer == "no"
    assert ask(model, "beach.jpg", "where was this taken?").replies[0].answer == "beach"
    assert ask(model, "elephant.png", "what animal is this?").replies[0].answer == "elephant"
    assert ask(model, "beach.jpg", "how many elephants are there?").replies[0].answer == "0"


@pytest.mark.parametrize(
    ("picture", "question"),
    [
        ("beach.jpg", "how many elephants are there?"),
        ("cat.jpg", "is the cat left of the dog?"),
        ("cat.jpg", "what does the sign say?"),
        ("cat.jpg", "what colour is the cat left of the dog?"),  # by the head
    ],
)
def test_answers_to_weak_kinds_are_never_sure(model: Encoder, picture: str, question: str) -> None:
    answered = ask(model, picture, question)
    assert (answered.sure, answered.answer) == (False, None)
    assert answered.replies and answered.notes


def test_own_answers(model: Encoder) -> None:
    answered = ask(model, "elephant.png", "what is this?", answers=["elephant", "teapot"])
    assert answered.answer == "elephant"
    assert {reply.answer for reply in answered.replies} == {"elephant", "teapot"}


@pytest.mark.parametrize(
    "question",
    ["is there a dog?", "is it day or night?", "how many dogs are there?", "what colour is it?"],
)
def test_probabilities_add_up_and_are_sorted(model: Encoder, question: str) -> None:
    answered = ask(model, "dog.jpg", question, top=None)
    probabilities = [reply.probability or 0 for reply in answered.replies]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    assert (answered.answer is None) == (not answered.sure)


def test_the_opposite_question_has_the_opposite_answer(model: Encoder) -> None:
    for question, opposite in (
        ("is it night?", "is it day?"),
        ("is this indoors?", "is this outdoors?"),
    ):
        yes = {a.answer: a.probability for a in ask(model, "skyline.jpg", question).replies}["yes"]
        no = {a.answer: a.probability for a in ask(model, "skyline.jpg", opposite).replies}["no"]
        assert yes == pytest.approx(no)


def test_every_question_about_every_picture_in_order(model: Encoder) -> None:
    pictures = [PHOTOS / "cat.jpg", PHOTOS / "missing.jpg", PHOTOS / "dog.jpg"]
    questions = ["is there a cat?", "nonsense", "why is it there?", "what is this?"]
    answered = list(twotower.ask(pictures, questions, model=model))
    assert [(answer.source, answer.question) for answer in answered] == [
        (picture, question) for picture in pictures for question in questions
    ]
    for answer in answered:
        if answer.question in ("nonsense", "why is it there?"):
            assert isinstance(answer.error, QuestionError)
        elif answer.source == PHOTOS / "missing.jpg":
            assert isinstance(answer.error, PictureError)
        else:
            assert answer.error is None and answer.replies


def test_a_model_of_random_weights_answers_too(tiny_directory: Path) -> None:
    answered = ask(twotower.load(tiny_directory), "cat.jpg", "what animal is this?", top=None)
    assert len(answered.replies) > 50


@pytest.mark.parametrize("curve", [THING_CURVE, STATEMENT_CURVE])
def test_a_single_statement_is_compared_with_everyday_words(curve: StatementCurve) -> None:
    everyday = np.array([0.1, 0.2, 0.3])
    deviations = (0.4 - 0.2) / everyday.std()
    expected = 1 / (1 + np.exp(-(curve.slope * deviations + curve.intercept)))
    assert statement_probability(0.4, everyday, curve) == pytest.approx(expected)


def test_opposites_are_compared_with_each_other() -> None:
    everyday = np.array([0.1, 0.2, 0.3])
    yes, no = (opposite_probability(*scores, everyday) for scores in ((0.4, 0.1), (0.1, 0.4)))
    assert yes > 0.9 and yes + no == pytest.approx(1)


def test_a_rival_with_a_higher_score_lowers_the_probability() -> None:
    everyday = np.array([0.1, 0.2, 0.3])
    alone = statement_probability(0.4, everyday)
    assert statement_probability(0.4, everyday, rivals=[0.1, 0.39]) == alone
    behind = statement_probability(0.4, everyday, rivals=[0.1, 0.6])
    logits = [np.log(p / (1 - p)) for p in (alone, behind)]
    expected = THING_CURVE.rival_slope * 0.2 / everyday.std()
    assert logits[0] - logits[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("question", "curve"),
    [
        ("is there a dog?", THING_CURVE),
        ("is there a swimming pool?", THING_CURVE),
        ("is there a red car?", STATEMENT_CURVE),
        ("is the dog running?", STATEMENT_CURVE),
        ("is anyone running?", STATEMENT_CURVE),
        ("is there a man with a hat?", STATEMENT_CURVE),
    ],
)
def test_names_of_things_have_a_steeper_curve(question: str, curve: StatementCurve) -> None:
    assert curve_of(parse_question(question).statement) == curve


@pytest.mark.parametrize("picture", ["cat.jpg", "cow.jpg", "horse.jpg"])
def test_an_animal_is_not_surely_taken_for_a_dog(model: Encoder, picture: str) -> None:
    assert ask(model, picture, "is there a dog?").answer != "yes"
    assert ask(model, "dog.jpg", "is there a dog?").answer == "yes"


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_nearer_statement_is_more_probable(a: float, b: float) -> None:
    everyday = np.array([-0.1, 0.0, 0.1])
    low, high = sorted((a, b))
    assert statement_probability(low, everyday) <= statement_probability(high, everyday)
