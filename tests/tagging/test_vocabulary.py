import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.calibration.captions import captioned_tags, read_captioned
from twotower.errors import TaggingError
from twotower.tagging.formats import format_vocabulary, parse_vocabulary, read_vocabulary
from twotower.tagging.vocabulary import DETECTORS, Tag, Vocabulary


def paths(text: str, kind: str = "txt") -> list[str]:
    return [str(tag) for tag in parse_vocabulary(text, kind).tags]


# --- shipped -----------------------------------------------------------------------------------


def test_the_shipped_vocabulary_is_a_sane_tree() -> None:
    vocabulary = read_vocabulary()
    assignable = [tag for tag in vocabulary.tags if not tag.heading]
    assert len(assignable) > 1000
    assert max(len(tag.path) for tag in assignable) <= 4
    names = [name.casefold() for tag in assignable for name in (tag.name, *tag.synonyms)]
    repeated = {name for name in names if names.count(name) > 1}
    assert not repeated
    plural = {name for name in names if f"{name}s" in names}
    assert not plural, "the same tag twice"
    assert all(re.fullmatch(r"[\w .'/-]+", name) for name in names)
    groups = {tag.name for tag in vocabulary.tags if tag.exclusive}
    assert {"season", "indoors or outdoors", "time of day"} <= groups
    assert {tag.detector for tag in assignable} == {None, *DETECTORS}


def test_every_tag_that_captions_decide_is_shipped() -> None:
    vocabulary = read_vocabulary()
    for name, _ in read_captioned():
        assert vocabulary.find(name), name


def test_captions_decide_tags_or_leave_them_open() -> None:
    captioned = captioned_tags(
        [
            ("A dog runs", "Two hounds on grass", "An animal", "A hot dog", "The puppy"),
            ("A boat", "A boat", "A boat", "A ship", "A dog?"),
            ("A boat", "A lake", "Water", "Boats", "The sea"),
        ]
    )
    by_name = {tag.name: tag.answers.tolist() for tag in captioned}
    assert by_name["boat"] == [0, 1, 1]
    assert by_name["giraffe"] == [0, 0, 0]
    assert by_name["dog"] == [1, -1, 0]
    assert captioned_tags([("a dog",)]) == []  # one caption does not name all that is there


# --- formats -------------------------------------------------------------------------------------


def test_indented_text() -> None:
    vocabulary = parse_vocabulary(
        "# mine\n"
        "season (one)\n  spring\n  summer {high summer}\n\n"
        "[animal]\n"
        "  dog {puppy} {pup}\n"
        "    {hound}\n"
        "    + a photo of a dog on a leash\n"
        "    - a statue of a dog\n"
        "    poodle\n"
        "animal|cat|tabby\n"
        "dull\n  @blurry\n"
    )
    assert vocabulary.tags == (
        Tag(("season",), heading=True, exclusive=True),
        Tag(("season", "spring")),
        Tag(("season", "summer"), ("high summer",)),
        Tag(("animal",), heading=True),
        Tag(
            ("animal", "dog"),
            ("puppy", "pup", "hound"),
            ("a photo of a dog on a leash",),
            ("a statue of a dog",),
        ),
        Tag(("animal", "dog", "poodle")),
        Tag(("animal", "cat")),
        Tag(("animal", "cat", "tabby")),
        Tag(("dull",), detector="blurry"),
    )


def test_yaml_json_and_tables_say_the_same() -> None:
    tree = parse_vocabulary(
        "season (one)\n  spring\n  summer\nanimal\n  dog {puppy}\n    - a statue\n    poodle\n"
    )
    yaml = "season (one): [spring, summer]\nanimal:\n- dog {puppy}:\n  - '- a statue'\n  - poodle\n"
    assert parse_vocabulary(yaml, "yaml") == tree
    json = '{"season (one)": ["spring", "summer"], '
    json += '"animal": {"dog {puppy}": ["- a statue", "poodle"]}}'
    assert parse_vocabulary(json, "json") == tree
    table = (
        "tag,parent,synonyms,negatives,kind\nseason,,,,one\nspring,season,,,\nsummer,season,,,\n"
        "animal,,,,\ndog,animal,puppy,a statue,\nanimal|dog|poodle,,,,\n"
    )
    assert parse_vocabulary(table, "csv") == tree


def test_parents_in_a_table_are_told_apart_by_their_path() -> None:
    rows = "dog,animal\ndog,toy\nleg,animal|dog\ndog,\npaw,dog\ncell,toy|dog,,\n"
    tags = map(str, parse_vocabulary(f"tag,parent\n{rows}", "csv").tags)
    assert {"animal|dog|leg", "dog|paw", "toy|dog|cell"} <= set(tags)
    assert paths("a\n  dog {hound}\nhound\n") == ["a", "a|dog", "hound"]


def test_find_by_path_name_and_synonym() -> None:
    vocabulary = parse_vocabulary("fruit\n\torange {clementine}\ncolour\n\torange\n\tred\n")
    assert str(vocabulary.find("Fruit | Orange")) == "fruit|orange"
    assert str(vocabulary.find("clementine")) == "fruit|orange"
    assert str(vocabulary.find("red")) == "colour|red"
    assert vocabulary.find("orange") is None  # ambiguous
    assert vocabulary.find("blue") is None


NAMES = st.text("abcdeÄß日 '.,:", min_size=1, max_size=6).map(lambda text: " ".join(text.split()))
SENTENCES = st.lists(NAMES.filter(bool), max_size=2, unique_by=str.casefold).map(tuple)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    """Trees of any shape; parents before children, siblings together, as a file has them."""
    tags: list[Tag] = []

    def grow(parents: tuple[str, ...]) -> None:
        count = draw(st.integers(1 if not parents else 0, 3 if len(parents) < 3 else 0))
        names = draw(
            st.lists(NAMES.filter(bool), min_size=count, max_size=count, unique_by=str.casefold)
        )
        siblings = [name.casefold() for name in names]
        for name in names:
            if name.casefold() in (parent.casefold() for parent in parents):
                continue
            heading = draw(st.booleans())
            synonyms = draw(SENTENCES)
            tags.append(
                Tag(
                    (*parents, name),
                    tuple(word for word in synonyms if word.casefold() not in siblings),
                    draw(SENTENCES),
                    draw(SENTENCES),
                    heading,
                    heading and draw(st.booleans()),
                    draw(st.sampled_from([None, "black"])),
                )
            )
            grow((*parents, name))

    grow(())
    tags.append(Tag(("one that is given",)))
    return Vocabulary(tuple(tags))


@given(vocabularies())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(vocabulary: Vocabulary) -> None:
    assert parse_vocabulary(format_vocabulary(vocabulary)) == vocabulary


@given(st.text(max_size=60), st.sampled_from(["txt", "csv", "yaml", "json"]))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_vocabulary_or_an_error_of_one_line(text: str, kind: str) -> None:
    try:
        vocabulary = parse_vocabulary(text, kind, "file")
    except TaggingError as error:
        assert str(error).startswith("file")
        assert "\n" not in str(error)
    else:
        assert parse_vocabulary(format_vocabulary(vocabulary)) == vocabulary


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", "txt", "file: contains no tags"),
        ("[only]\n", "txt", "file: contains no tags"),
        ("a\nb\nA\n", "txt", "file line 3: 'A' is defined already, on line 1"),
        ("a|b\na|b\n", "txt", "file line 2: 'a|b' is defined already, on line 1"),
        ("dog\n  pet\n    dog\n", "txt", "file line 3: 'dog' lies below itself"),
        ("a||b\n", "txt", "file line 1: a tag has no name"),
        ("  a\n\tb\n", "txt", "file line 2: the indentation matches no line above"),
        ("+ a photo\n", "txt", "file line 1: '+ a photo' belongs to no tag"),
        ("a\n  @sharp\n", "txt", "file line 2: no detector 'sharp'; use one of @blurry"),
        ("a {b\n", "txt", "file line 1: 'a {b' cannot be the name of a tag"),
        ("tag,parent\na,b\nb,a\n", "csv", "file line 2: 'a' lies below itself, by its parents"),
        ("tag,parent\na,a\n", "csv", "file line 2: 'a' lies below itself"),
        ("tag\na\na\n", "csv", "file line 3: 'a' is defined already"),
        (
            "tag,parent\ndog,animal\ndog,toy\nleg,dog\n",
            "csv",
            "file line 4: several tags are called 'dog'; write the whole path as parent",
        ),
        ("tag\na,b\n", "csv", "file line 2: 2 cells below 1 columns; put quotes"),
        ("a\n  dog {Hound}\n  hound\n", "txt", "file line 3: 'hound' is also a synonym of 'dog'"),
        ("[" * 3000 + "]" * 3000, "json", "file: nested too deeply"),
        ("name\na\n", "csv", "file line 1: unknown column 'name'"),
        ('tag\n"a\n', "csv", "file line 2: unexpected end of data"),
        ("tag,kind\na,many\n", "csv", "file line 2: unknown kind 'many'; use tag"),
        ("a: &x\n- b\n- *x\n", "yaml", "file line 1: contains itself"),
        ("a: [\n", "yaml", "file line 2: expected the node content"),
        ("? [a]\n: b\n", "yaml", "file line 1: the name of a tag is not text"),
        ("a", "docx", "file: not a vocabulary by its suffix"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_line(text: str, kind: str, message: str) -> None:
    with pytest.raises(TaggingError) as caught:
        parse_vocabulary(text, kind, "file")
    assert str(caught.value).startswith(message)
