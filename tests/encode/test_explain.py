"""Where a picture matches words."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import twotower
from twotower.encode.encoder import Encoder
from twotower.encode.explain import Explanation, _boxes, _middle, draw, explain

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def model() -> Encoder:
    return twotower.load()


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 75), (1, 1), (3, 1)])
def test_windows_cover_the_picture_and_stay_inside(size: tuple[int, int]) -> None:
    width, height = size
    covered = np.zeros((height, width), int)
    for left, top, right, bottom in _boxes(width, height):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 3, "each size of window sees each place"


@pytest.mark.parametrize(
    ("left", "right", "words", "side"),
    [
        ("cat.jpg", "bicycle.jpg", "a cat", 0),
        ("cat.jpg", "bicycle.jpg", "a bicycle", 1),
    ],
)
def test_the_peak_is_in_the_right_half(
    model: Encoder,
    left: str,
    right: str,
    words: str,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twotower.encode.explain.WINDOWS", (1 / 2,))  # a fifth of the time
    pair = PIL.Image.new("RGB", (448, 224))
    for place, name in enumerate((left, right)):
        pair.paste(model.preprocess.square(PHOTOS / name), (224 * place, 0))
    explanation = explain(model, pair, words)
    assert int(explanation.peak[0] > 0.5) == side
    assert explanation.heat.shape == (48, 96)


def test_drawn_at_the_size_of_the_picture() -> None:
    picture = PIL.Image.new("RGB", (60, 40), (10, 200, 30))
    heat = np.zeros((48, 72), np.float32)
    heat[10, 60] = 1
    explanation = Explanation(picture, heat, 0.3)
    assert explanation.peak == ((60 + 0.5) / 72, (10 + 0.5) / 48)
    drawn = np.asarray(draw(explanation), int)
    assert drawn.shape == (40, 60, 3)
    cold, hot = drawn[35, 5], drawn[8, 50]
    assert np.ptp(cold) == 0, "grey"
    assert np.ptp(hot) > 50


def test_even_heat_is_drawn_grey() -> None:
    picture = PIL.Image.new("RGB", (20, 20), "red")
    drawn = draw(Explanation(picture, np.ones((48, 48), np.float32), 0.0))
    assert np.ptp(np.asarray(drawn, int), axis=2).max() == 0


def test_a_long_strip_is_looked_at_in_the_middle() -> None:
    strip = _middle(PIL.Image.new("RGB", (900, 10), "white"))
    assert strip.size == (30, 10)
    assert _middle(PIL.Image.new("RGB", (30, 10))).size == (30, 10)
