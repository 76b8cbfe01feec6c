"""The kinds of questions, and the statements that they become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.asking.questions import (
    COUNTING,
    DOING,
    IDENTITY,
    INNER_NEGATION,
    NEGATION,
    ONE_OF,
    READING,
    RELATIONS,
    normalize_question,
    parse_question,
)
from twotower.errors import QuestionError

FORMS = [
    # colour, in two spellings
    ("what colour is the car?", "colour", "a photo of a {} car."),
    ("What color is the man's shirt?", "colour", "the man's shirt is {}."),
    ("what color shirt is the man wearing", "colour", "the man is wearing a {} shirt."),
    ("What is the color of the triangle?", "colour", "a photo of a {} triangle."),
    ("Can you tell me what colour the car is?", "colour", "a photo of a {} car."),
    ("what colour is it?", "colour", "a photo of something {}."),
    # where and when
    ("where is this?", "place", "a photo taken {}."),
    ("Where was this photo taken?", "place", "a photo taken {}."),
    ("where is the dog?", "place", "the dog {}."),
    ("when was this taken?", "time of day", "a photo taken {}."),
    ("what time of day is it?", "time of day", "a photo taken {}."),
    ("what season is it?", "season", "a photo taken {}."),
    ("what's the weather like?", "weather", "a photo taken in {} weather."),
    # kinds of things
    ("what animal is this?", "animal", "a photo of {}."),
    ("which animal is lying on the sofa?", "animal", "a photo of {} lying on the sofa."),
    ("what kind of fruit is on the table?", "fruit", "a photo of {} on the table."),
    ("what breed is the dog?", "dog", "the dog is {}."),
    ("what kind of dog is this?", "dog", "a photo of {}."),
    ("what sport is this?", "sport", "a photo of {}."),
    ("what room is this?", "room", "a photo taken {}."),
    ("which instrument is she playing?", "instrument", "she is playing {}."),
    ("what shape does the image contain?", "shape", "a photo of {}."),
    ("what is the red shape?", "shape", "a red {}."),
    ("what vehicle is this?", "vehicle", "a photo of {}."),
    ("how old is the man?", "age", "a photo of a person who is a {}."),
    ("what is the man's job?", "job", "a photo of {}."),
    ("who is riding the horse?", "person", "a photo of {} riding the horse."),
    # activities and their objects
    ("what is the man doing?", "activity", "the man {}."),
    ("what is happening?", "activity", "a photo of someone {}."),
    ("what is the woman wearing?", "clothing", "the woman is wearing {}."),
    ("what is he eating?", "food", "he is eating {}."),
    ("what is the boy holding?", "open", "the boy is holding {}."),
    ("what is this?", "object", "a photo of {}."),
    ("what do you see?", "object", "a photo of {}."),
    ("what does the picture show?", "object", "a photo of {}."),
    ("what is on the table?", "object", "a photo of {} on the table."),
    # counts
    ("how many dogs are there?", "count", "a photo of {}."),
    ("How many dogs can you see in this photo?", "count", "a photo of {}."),
    ("how many people are wearing hats?", "count", "a photo of {} wearing hats."),
    ("how many wheels does the car have?", "count", "the car has {}."),
    ("how many books is the man holding?", "count", "the man is holding {}."),
    # yes or no
    ("is there a dog?", "yes/no", "a photo of a dog."),
    ("Are there any people in the picture?", "yes/no", "a photo of people."),
    ("do you see a dog?", "yes/no", "a photo of a dog."),
    ("does the image contain a circle?", "yes/no", "a photo of a circle."),
    ("is a triangle present?", "yes/no", "a photo of a triangle."),
    ("is this a photo of a dog?", "yes/no", "a photo of a dog."),
    ("is the car red?", "yes/no", "the car is red."),
    ("is the dog running on grass?", "yes/no", "the dog is running on grass."),
    ("does the man wear a hat?", "yes/no", "the man wears a hat."),
    ("does the dog have a collar?", "yes/no", "a photo of the dog with a collar."),
    ("does he wear a hat?", "yes/no", "a photo of someone who wears a hat."),
    ("does she have a hat?", "yes/no", "a photo with a hat."),
    ("does it look old?", "yes/no", "it looks old."),
    ("does it show a dog?", "yes/no", "a photo of a dog."),
    ("is it raining?", "yes/no", "it is raining."),
    ("is this indoors?", "yes/no", "a photo taken indoors."),
    ("is anyone smiling?", "yes/no", "a photo of someone smiling."),
    ("dogs?", "yes/no", "a photo of dogs."),
    # no statement answers these
    ("why is the man running?", "reason", ""),
    ("how does it work?", "reason", ""),
]


@pytest.mark.parametrize(("text", "kind", "statement"), FORMS)
def test_forms(text: str, kind: str, statement: str) -> None:
    question = parse_question(text)
    assert (question.kind, question.statement) == (kind, statement)
    if "{}" in statement:
        assert len(question.answers) > 2
        for claimed in question.statements():
            assert "{}" not in claimed


CHOICES = [
    ("is it a cat or a dog?", ["a photo of a cat.", "a photo of a dog."]),
    ("cat or dog?", ["a photo of a cat.", "a photo of a dog."]),
    ("is the car red or blue?", ["the car is red.", "the car is blue."]),
    (
        "does he look happy or sad?",
        [f"a photo of someone who looks {mood}." for mood in ("happy", "sad")],
    ),
    (
        "is it a cat, a dog or people?",
        ["a photo of a cat.", "a photo of a dog.", "a photo of people."],
    ),
    ("is there a cat, a dog or neither?", ["a photo of a cat.", "a photo of a dog."]),
    ("is it a cat or a dog or both?", ["a photo of a cat.", "a photo of a dog."]),
    ("is it red or blue?", ["a photo of something red.", "a photo of something blue."]),
    ("is it day or night?", ["a photo taken in the daytime.", "a photo taken at night."]),
    (
        "what is it: a dog, a cat or a cow?",
        ["a photo of a dog.", "a photo of a cat.", "a photo of a cow."],
    ),
    (
        "is the dog on the beach or in the snow?",
        ["the dog is on the beach.", "the dog is in the snow."],
    ),
    (
        "are they sitting, standing or lying down?",
        [
            "a photo of someone sitting.",
            "a photo of someone standing.",
            "a photo of someone lying down.",
        ],
    ),
]


@pytest.mark.parametrize(("text", "statements"), CHOICES)
def test_choices(text: str, statements: list[str]) -> None:
    question = parse_question(text)
    assert question.kind == "choice"
    assert question.statements() == statements


def test_yes_or_not_is_not_a_choice() -> None:
    assert parse_question("is it a dog or not?").kind == "yes/no"
    neither = parse_question("is there a dog or neither?")
    assert (neither.kind, neither.statement) == ("yes/no", "a photo of a dog.")


def test_neither_is_not_an_option() -> None:
    question = parse_question("is there a cat, a dog or neither?")
    assert question.weak and ONE_OF in question.notes


@pytest.mark.parametrize(
    ("text", "denies", "statement"),
    [
        ("is there no dog?", True, "a photo of a dog."),
        ("is there not a dog in the image?", True, "a photo of a dog."),
        ("does the image not contain a dog?", True, "a photo of a dog."),
        ("is nobody smiling?", True, "a photo of someone smiling."),
        ("isn't there a dog?", False, "a photo of a dog."),  # expects "yes" if there is one
        ("can't you see a dog?", False, "a photo of a dog."),
    ],
)
def test_negated_questions_become_positive(text: str, denies: bool, statement: str) -> None:
    question = parse_question(text)
    assert (question.negated, question.statement) == (denies, statement)
    assert (NEGATION in question.notes) == denies


def test_opposites() -> None:
    assert parse_question("is this indoors?").opposite == "a photo taken outdoors."
    assert parse_question("is it night?").opposite == "a photo taken in the daytime."
    assert parse_question("is the man sitting?").opposite == "the man is standing."
    assert parse_question("is there a small dog?").opposite == ""  # a big dog is no opposite


def test_rivals() -> None:
    rivals = parse_question("are there any dogs?").rivals
    assert "a photo of a cat." in rivals and "a photo of a dog." not in rivals
    birds = parse_question("is it a bird?").rivals
    assert "a photo of a cat." in birds and "a photo of an owl." not in birds  # an owl is a bird
    assert parse_question("is there a frisbee?").rivals == ()
    assert parse_question("is there a woman?").rivals == ()  # a man may be there too


def test_numbers_agree_with_nouns() -> None:
    question = parse_question("how many people are there?")
    assert question.answers == {
        "1": "one person",
        "2": "two people",
        "3": "three people",
        "4": "four people",
        "5": "five people",
    }
    assert parse_question("how many buses?").answers["1"] == "one bus"
    assert parse_question("how many cherries?").answers["1"] == "one cherry"
    assert parse_question("how many wolves?").answers["2"] == "two wolves"


def test_own_answers_replace_the_types() -> None:
    question = parse_question("what colour is the car?", ["red", "dark blue"])
    assert question.kind == "choice"
    assert question.statements() == ["a photo of a red car.", "a photo of a dark blue car."]
    assert parse_question("what is this?", ["owl", "bat"]).statements() == [
        "a photo of an owl.",
        "a photo of a bat.",
    ]
    count = parse_question("how many dogs are there?", ["2", "3"])
    assert count.statements() == ["a photo of two dogs.", "a photo of three dogs."]
    for bad in (["red"], ["red", "red"], ["red", " "]):
        with pytest.raises(QuestionError):
            parse_question("what colour is the car?", bad)


def test_weaknesses_are_noted() -> None:
    assert COUNTING in parse_question("how many dogs are there?").notes
    assert RELATIONS in parse_question("is the cup left of the plate?").notes
    assert DOING in parse_question("what is the man doing?").notes
    assert IDENTITY in parse_question("who is this?").notes
    assert parse_question("is there a dog?").notes == ()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("how many dogs are there?", COUNTING),
        ("is the cat left of the dog?", RELATIONS),
        ("is the ball under the table?", RELATIONS),
        ("which is bigger, the cat or the dog?", RELATIONS),
        ("what does the sign say?", READING),
        ("what is written on the wall?", READING),
        ("what number is on the shirt?", READING),
        ("what is the man's name?", READING),
        ("who is this?", READING),
        ("what time is it?", READING),
        ("which city is this?", READING),
    ],
)
def test_no_answer_is_sure_where_such_models_are_bad(text: str, note: str) -> None:
    question = parse_question(text)
    assert question.weak and note in question.notes
    assert parse_question(text, ["cat", "dog"]).weak


@pytest.mark.parametrize(
    "text",
    [
        "is there a dog?",
        "what time of day is it?",
        "when was this taken?",
        "is this taken from above?",
        "who is riding the horse?",
        "what colour are the letters?",
        "is he reading a book?",
    ],
)
def test_questions_without_known_weakness(text: str) -> None:
    assert not parse_question(text).weak


@pytest.mark.parametrize(
    "text", ["", "   ", "?", "!!!", "12", "a dog on the beach", "is this?", "or?", "a " * 400]
)
def test_texts_that_are_no_questions(text: str) -> None:
    with pytest.raises(QuestionError):
        parse_question(text)


def test_frames_and_spelling_change_nothing() -> None:
    variants = [
        "what color is the car?",
        "WHAT COLOUR IS THE CAR",
        "what colour is the car in this photo?",
    ]
    variants += [
        "In this picture, what colour is the car?",
        "Please tell me what colour is the car.",
    ]
    assert {normalize_question(text) for text in variants} == {"what colour is the car"}


@given(st.text(max_size=60))
def test_any_text_is_a_question_or_an_error(text: str) -> None:
    try:
        question = parse_question(text)
    except QuestionError as error:
        assert "\n" not in str(error).replace(text, "")
        return
    assert question.text == text.strip()
    assert all("{}" not in claimed or "{}" in text for claimed in question.statements())


@given(
    st.lists(
        st.sampled_from("is there a dog or not what colour how many the red man in on".split())
    )
)
def test_any_words_are_a_question_or_an_error(words: list[str]) -> None:
    for text in (" ".join(words), " ".join(words) + "?"):
        try:
            question = parse_question(text)
        except QuestionError:
            continue
        assert question.kind == "reason" or question.statement
        assert question.kind != "choice" or len(question.answers) > 1


@pytest.mark.parametrize(
    "text", ["is there a cat that is not black?", "is there a cat without a tail?"]
)
def test_a_negation_inside_a_statement_is_never_sure(text: str) -> None:
    question = parse_question(text)
    assert question.weak and not question.negated and INNER_NEGATION in question.notes


@pytest.mark.parametrize("text", ["is there no cat?", "is it not raining?", "are there no dogs?"])
def test_a_negation_of_the_statement_is_inverted(text: str) -> None:
    question = parse_question(text)
    assert question.negated and not question.weak
