"""Groups of near copies, by hashes of pictures and MinHash of texts."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pairs.filters.inputs import encoded, photograph, sentence
from twotower.errors import PictureError
from twotower.pairs.filters.groups import (
    different_bits,
    matches_any,
    near_groups,
    picture_groups,
    text_groups,
)
from twotower.pairs.filters.minhash import COMPONENTS, text_signatures
from twotower.pairs.filters.pictures import (
    HASH_BYTES,
    hash_pictures,
    read_facts,
    size_reason,
)
from twotower.pairs.filters.settings import KEPT, REASONS, FilterSettings
from twotower.pairs.filters.texts import text_key

DISTANCE = FilterSettings().picture_distance
COPIES = {
    "recompressed": lambda image: PIL.Image.open(io.BytesIO(encoded(image, 30))),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squashed": lambda image: image.resize((224, 224)),
    "cropped": lambda image: image.crop((4, 3, image.width - 4, image.height - 3)),
}


def group_texts(texts: list[str], similarity: float = 0.8) -> list[int]:
    keys = np.array([text_key(text) for text in texts], np.uint64)
    return text_groups(keys, text_signatures(texts), similarity).tolist()


@pytest.mark.parametrize("change", COPIES)
def test_copies_share_a_group(change: str) -> None:
    images = [photograph(seed) for seed in range(30)]
    hashes = hash_pictures([*images, *map(COPIES[change], images)])
    assert hashes.shape == (60, HASH_BYTES)
    assert picture_groups(hashes, DISTANCE).tolist() == [*range(30), *range(30)]
    assert matches_any(hashes[30:], hashes[:30], DISTANCE).all()
    assert not matches_any(hashes[50:], hashes[:20], DISTANCE).any()


def test_unreadable_pictures_have_no_hash() -> None:
    assert len(hash_pictures([b"no picture", encoded(photograph(1))])) == 1
    assert len(hash_pictures([])) == 0
    with pytest.raises(PictureError):
        read_facts(b"no picture")


def test_no_references_match_nothing() -> None:
    hashes = hash_pictures([photograph(1)])
    assert not matches_any(hashes, hashes[:0], DISTANCE).any()
    assert not matches_any(hashes[:0], hashes, DISTANCE).any()
    assert picture_groups(hashes[:0], DISTANCE).tolist() == []


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        ((200, 200), ""),
        ((199, 400), "too small"),
        ((600, 200), ""),
        ((601, 200), "too elongated"),
        ((200, 700), "too elongated"),
    ],
)
def test_sizes(size: tuple[int, int], fault: str) -> None:
    reason = size_reason(*size, 40.0, FilterSettings())
    assert (REASONS[reason - 1].fault if reason else "") == fault
    assert size_reason(*size, 40.0, FilterSettings(skipped=("size",))) == KEPT


def test_blank_pictures_have_no_contrast() -> None:
    blank = PIL.Image.new("RGB", (400, 300), (250, 250, 250))
    facts = read_facts(blank)
    assert facts.contrast == 0
    reason = size_reason(400, 300, facts.contrast, FilterSettings())
    assert REASONS[reason - 1] == ("size", "blank")
    assert read_facts(photograph(3)).contrast > 20


def test_bits_are_counted() -> None:
    words = np.array([[0, 2**64 - 1], [5, 0]], np.uint64)
    partners = np.array([[0, 0], [4, 2**63]], np.uint64)
    assert different_bits(words, partners).tolist() == [64, 2]


def test_near_texts_share_a_group() -> None:
    texts = [
        "A brown dog runs through the tall green grass",
        "a brown dog runs through the tall, green grass!",
        "A brown dog runs through the tall green grass.",
        "A brown dog runs through the tall green grasses",
        "A woman reads a newspaper in a cafe",
        "A dog and a woman",
    ]
    assert group_texts(texts) == [0, 0, 0, 0, 4, 5]


def test_texts_without_words_can_be_grouped() -> None:
    assert group_texts(["", "!!", "a", "a ?", "b"]) == [0, 0, 2, 2, 4]


def test_signatures_estimate_the_similarity() -> None:
    texts = [sentence(seed) for seed in range(40)]
    texts += [text.replace("the ", "a ") for text in texts]
    signatures = text_signatures(texts)
    assert signatures.shape == (80, COMPONENTS)

    def grams(text: str) -> set[str]:
        return {text[start : start + 5] for start in range(len(text) - 4)}

    errors = []
    for row, partner in zip(range(40), range(40, 80), strict=True):
        jaccard = len(grams(texts[row]) & grams(texts[partner])) / len(
            grams(texts[row]) | grams(texts[partner])
        )
        errors.append((signatures[row] == signatures[partner]).mean() - jaccard)
    assert abs(np.mean(errors)) < 0.03  # unbiased; its deviation is 0.05 / sqrt(40)
    assert max(map(abs, errors)) < 0.2


def test_batches_do_not_change_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(seed) for seed in range(7)] + [""]
    whole = text_signatures(texts)
    monkeypatch.setattr("twotower.pairs.filters.minhash.BATCH", 3)
    assert (text_signatures(texts) == whole).all()
    assert text_signatures([]).shape == (0, COMPONENTS)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.randoms())
def test_groups_are_connected_components(values: list[int], random: object) -> None:
    """Rows whose values differ by at most 1 are similar; a single table compares all rows."""
    numbers = np.array(values)

    def similar(rows, partners):  # type: ignore[no-untyped-def]
        return np.abs(numbers[rows] - numbers[partners]) <= 1

    groups = near_groups(len(values), [np.zeros(len(values), np.int64)], similar)
    expected = list(range(len(values)))
    for _ in values:
        for i, j in np.argwhere(np.abs(numbers[:, None] - numbers[None]) <= 1):
            expected[i] = expected[j] = min(expected[i], expected[j])
    assert groups.tolist() == expected


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(24)))
def test_groups_do_not_depend_on_the_order(order: list[int]) -> None:
    images = [photograph(seed, (160, 120)) for seed in range(8)]
    copies = [*images, *[COPIES["half"](image) for image in images]]
    copies += [COPIES["cropped"](image) for image in images]
    hashes = hash_pictures(copies)
    groups = picture_groups(hashes[list(order)], DISTANCE)
    members = {frozenset(np.array(order)[groups == group].tolist()) for group in set(groups)}
    assert members == {frozenset((seed, seed + 8, seed + 16)) for seed in range(8)}
