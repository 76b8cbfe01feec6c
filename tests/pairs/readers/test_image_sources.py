import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.pairs.readers.image_sources import ImageSource, choose_source, parse_srcset

SPACES = "\t\n\f\r "


def parse_by_the_standard(text: str) -> list[ImageSource]:
    """Follow the steps of https://html.spec.whatwg.org/#parse-a-srcset-attribute one by one."""
    position, sources = 0, []
    while True:
        while position < len(text) and text[position] in SPACES + ",":
            position += 1
        if position >= len(text):
            return sources
        start = position
        while position < len(text) and text[position] not in SPACES:
            position += 1
        url = text[start:position]
        descriptors: list[str] = []
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            position = tokenize(text, position, descriptors)
        source = source_of(url, descriptors)
        if source:
            sources.append(source)


def tokenize(text: str, position: int, descriptors: list[str]) -> int:
    while position < len(text) and text[position] in SPACES:
        position += 1
    current, state = "", "in"
    while True:
        character = text[position] if position < len(text) else None
        if state == "in":
            if character is None or character == ",":
                if current:
                    descriptors.append(current)
                return position + (character is not None)
            if character in SPACES:
                if current:
                    descriptors.append(current)
                    current, state = "", "after"
            else:
                current += character
                if character == "(":
                    state = "parens"
        elif state == "parens":
            if character is None:
                descriptors.append(current)
                return position
            current += character
            if character == ")":
                state = "in"
        elif character is None:
            return position
        elif character not in SPACES:
            state = "in"
            continue
        position += 1


def source_of(url: str, descriptors: list[str]) -> ImageSource | None:
    width: int | None = None
    density: float | None = None
    height: int | None = None
    error = False
    number = r"-?(\d+(\.\d+)?|\.\d+)([eE][+-]?\d+)?"
    for descriptor in descriptors:
        if re.fullmatch(r"[0-9]+w", descriptor):
            error |= width is not None or density is not None or int(descriptor[:-1]) == 0
            width = int(descriptor[:-1])
        elif re.fullmatch(rf"(?a:{number})x", descriptor):
            error |= width is not None or density is not None or height is not None
            error |= float(descriptor[:-1]) < 0
            density = float(descriptor[:-1])
        elif re.fullmatch(r"[0-9]+h", descriptor):
            error |= height is not None or density is not None or int(descriptor[:-1]) == 0
            height = int(descriptor[:-1])
        else:
            error = True
    if (height is not None and width is None) or error or not url:
        return None
    return ImageSource(url, width or 0, 1.0 if density is None else density)


pieces = st.sampled_from(
    "a.jpg|/b,c.png|x|,|, | |\n|\t|1x|2x|1.5x|-1x|100w|0w|200w|50h|(|)|(a, b)|w|.5x|1.x|1e2x|"
    "data:image/gif;base64,AA=".split("|")
)


@given(st.lists(pieces, max_size=14).map("".join) | st.lists(pieces, max_size=14).map(" ".join))
def test_srcset_is_parsed_as_the_standard_says(text: str) -> None:
    assert parse_srcset(text) == parse_by_the_standard(text)


@given(st.text(SPACES + ",()0123wxh.-e/a", max_size=40))
def test_srcset_of_any_characters(text: str) -> None:
    assert parse_srcset(text) == parse_by_the_standard(text)


def chosen(picture: list[dict[str, str | None]] | None = None, **attributes: str) -> object:
    names = {name.replace("_", "-"): value for name, value in attributes.items()}
    return choose_source(names, picture or [])


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"src": "a"}, ("a", 0, 0)),
        ({"src": "a", "width": "640", "height": "480px"}, ("a", 640, 480)),
        ({"src": "a", "width": "100%", "height": "auto"}, ("a", 0, 0)),
        ({"src": "a", "srcset": "b 320w, c 1280w, d 640w"}, ("c", 1280, 0)),
        ({"src": "a", "srcset": "b 1280w, c 4000w"}, ("b", 1280, 0)),
        ({"src": "a", "srcset": "b 3000w, c 4000w"}, ("b", 3000, 0)),
        ({"src": "a", "srcset": "b 1000w", "width": "100", "height": "50"}, ("b", 1000, 500)),
        ({"src": "a", "srcset": "b 2x, c 3x", "width": "100", "height": "50"}, ("c", 300, 150)),
        ({"src": "a", "srcset": "b 1x"}, ("b", 0, 0)),
        ({"src": "data:x", "data_src": "b"}, ("b", 0, 0)),
        ({"src": "blank.gif", "data_original": "b"}, ("b", 0, 0)),
        ({"srcset": "data:x 1w", "data_srcset": "b 500w"}, ("b", 500, 0)),
        ({"src": "a", "data_src": '{"set": 1}'}, ("a", 0, 0)),
        ({"alt": "x"}, None),
        ({"src": " "}, None),
    ],
)
def test_the_best_source_is_chosen(attributes: dict[str, str], expected: object) -> None:
    assert chosen(**attributes) == expected


def test_sources_of_a_picture_count_unless_for_some_screens() -> None:
    wide = {"srcset": "w.webp 1600w", "type": "image/webp"}
    crop = {"srcset": "crop.jpg 2000w", "media": "(max-width: 400px)"}
    drawing = {"srcset": "d.svg 2000w", "type": "image/svg+xml"}
    assert chosen([crop, drawing, wide], src="a") == ("w.webp", 1600, 0)
    assert chosen([crop], src="a") == ("a", 0, 0)
    assert chosen([crop]) == ("crop.jpg", 2000, 0)
