"""Texts, pictures and dictionaries in one list, and the same in sentence-transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import twotower
from twotower.encode.encoder import Encoder
from twotower.encode.mixed_inputs import parse_inputs
from twotower.errors import PictureError

PIXELS = np.random.default_rng(0).integers(0, 256, (80, 93, 3), np.uint8)
IMAGE = PIL.Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def encoder(tiny_directory: Path) -> Encoder:
    return Encoder(tiny_directory)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    IMAGE.save(path)
    return str(path)


@pytest.fixture(scope="module")
def library(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model, in sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    directory = tmp_path_factory.mktemp("sentence-transformers") / "model"
    with pytest.warns(UserWarning, match="differently"):
        twotower.convert(tiny_directory, directory, "sentence_transformers")
    return SentenceTransformer(str(directory), device="cpu", local_files_only=True)


def accepted_inputs(picture: str) -> list[Any]:
    """Return lists and single inputs that sentence-transformers' CLIP models take."""
    return [
        ["a cat", "two dogs"],
        [{"text": "a cat"}, {"text": picture}],
        [{"image": IMAGE}, {"image": picture}, {"image": PIXELS}],
        [picture, IMAGE, PIXELS],
        np.array(["a cat", "two dogs"]),
        "a cat",
        {"text": "a cat"},
        {"image": picture},
        picture,
        IMAGE,
        PIXELS,
    ]


@pytest.mark.clients
@pytest.mark.parametrize("number", range(11))
def test_same_vectors_as_sentence_transformers(
    encoder: Encoder, library: Any, picture: str, number: int
) -> None:
    inputs = accepted_inputs(picture)[number]
    expected = library.encode(inputs)
    assert encoder.encode(inputs).shape == expected.shape
    np.testing.assert_allclose(encoder.encode(inputs), expected, atol=1e-4)


@pytest.mark.clients
def test_mixed_batches_have_the_vectors_of_their_parts(
    encoder: Encoder, library: Any, picture: str
) -> None:
    """sentence-transformers takes a list of both only one by one."""
    inputs = ["a cat", {"image": picture}, {"text": "two dogs"}, IMAGE]
    with pytest.raises(ValueError, match="mixes multiple modalities"):
        library.encode(inputs)
    expected = library.encode(inputs, batch_size=1)
    np.testing.assert_allclose(encoder.encode(inputs), expected, atol=1e-4)


REFUSED: list[tuple[Any, str]] = [
    ({"text": "a cat", "image": IMAGE}, "has a text and a picture"),
    ({"audio": PIXELS}, "is a dictionary with 'audio'"),
    ({"image": IMAGE, "caption": "a cat"}, "is a dictionary with 'caption', 'image'"),
    ({"role": "user", "content": "a cat"}, "is a dictionary with 'content', 'role'"),
    ({}, "is a dictionary with no keys"),
    ({"text": 3}, "has a text of type int"),
    ({"image": "absent.jpg"}, r"\(absent.jpg\): no such file"),
    (None, "not a picture"),
]


@pytest.mark.clients
@pytest.mark.parametrize("bad", [bad for bad, _ in REFUSED])
def test_sentence_transformers_refuses_the_same(library: Any, bad: Any) -> None:
    with pytest.raises(ValueError):
        library.encode([bad])


@pytest.mark.parametrize(("bad", "reason"), REFUSED)
def test_what_clip_cannot_embed_is_refused(encoder: Encoder, bad: Any, reason: str) -> None:
    with pytest.raises(PictureError, match=rf"^inputs\[2\].*{reason}"):
        encoder.encode(["a cat", IMAGE, bad])


@pytest.mark.parametrize(
    "url", ["https://example.org/cat.jpg?size=large", "data:image/png;base64,AAAA"]
)
def test_urls_are_not_downloaded(encoder: Encoder, url: str) -> None:
    for item in (url, {"image": url}):
        with pytest.raises(PictureError, match=r"^inputs\[1\] \(.*a URL, which is not downloaded"):
            encoder.encode(["a cat", item])
    assert encoder.encode({"text": url}).shape == (32,)


def test_a_bad_picture_is_named_with_its_position(encoder: Encoder, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    for item in (str(bad), bad, {"image": bad}):
        with pytest.raises(PictureError, match=r"^inputs\[2\] \(.*bad\.jpg\): not a picture"):
            encoder.encode(["a cat", IMAGE, item])


@given(st.text())
def test_texts_that_name_no_file_stay_texts(text: str) -> None:
    for item in (text, text + " is a long text about cat.jpg" * 40, "https://example.org/ " + text):
        [parsed] = parse_inputs([item])
        assert (parsed.modality, parsed.content) == ("text", item)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.sampled_from("tdip"), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_order_is_kept(encoder: Encoder, items: list[tuple[str, int]], batch_size: int) -> None:
    texts = ["a cat", "two dogs that run along a beach", "x", "a red car"]
    pictures = [np.full((8, 8, 3), 80 * number, np.uint8) for number in range(4)]
    forms = {
        "t": lambda number: texts[number],
        "d": lambda number: {"text": texts[number]},
        "i": lambda number: {"image": pictures[number]},
        "p": lambda number: pictures[number],
    }
    text_features, image_features = encoder.encode(texts), encoder.encode(pictures)
    expected = [
        (text_features if form in "td" else image_features)[number] for form, number in items
    ]
    inputs = [forms[form](number) for form, number in items]
    features = encoder.encode(inputs, batch_size=batch_size)
    np.testing.assert_allclose(features, expected, atol=1e-4)
