"""Tests of heat maps: windows, patches and drawing."""

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import twotower

torch = pytest.importorskip("torch")

from twotower.encode.encoder import Encoder
from twotower.encode.explain import (
    WINDOW_SIDES,
    Explanation,
    _boxes,
    _crop_middle,
    _heat,
    _patches,
    draw,
    explain,
)
from twotower.errors import EngineError
from twotower.model.weights import load_model

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def model() -> Encoder:
    return twotower.load("small")


@pytest.mark.parametrize("size", [(100, 100), (300, 100), (50, 75), (1, 1), (3, 1)])
def test_windows_cover_the_picture_and_stay_inside(size: tuple[int, int]) -> None:
    width, height = size
    covered = np.zeros((height, width), int)
    for x1, y1, x2, y2 in _boxes(width, height, WINDOW_SIDES):
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 3, "windows of each size cover each position"


@pytest.mark.parametrize(
    ("left_name", "right_name", "words", "side"),
    [
        ("cat.jpg", "bicycle.jpg", "a cat", 0),
        ("cat.jpg", "bicycle.jpg", "a bicycle", 1),
    ],
)
def test_the_peak_is_in_the_right_half(
    model: Encoder,
    left_name: str,
    right_name: str,
    words: str,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twotower.encode.explain.WINDOW_SIDES", (1 / 2,))  # a fifth of the time
    pair = PIL.Image.new("RGB", (448, 224))
    for index, name in enumerate((left_name, right_name)):
        pair.paste(model.preprocess.square(PHOTOS / name), (224 * index, 0))
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
    strip = _crop_middle(PIL.Image.new("RGB", (900, 10), "white"))
    assert strip.size == (30, 10)
    assert _crop_middle(PIL.Image.new("RGB", (30, 10))).size == (30, 10)


# Vision transformers


@pytest.fixture(scope="module")
def torch_encoder(tiny_directory: Path) -> Encoder:
    return Encoder(tiny_directory, "torch")


def test_patches_by_hand(torch_encoder: Encoder) -> None:
    """Compute the last block head by head: attention of queries to queries, nothing added."""
    tower = load_model(torch_encoder.directory).vision
    pixel_values = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    entered: list[torch.Tensor] = []
    block = tower.blocks[-1]
    block.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with torch.inference_mode():
        tower(torch.from_numpy(pixel_values))
        rows = block.ln_1(entered[0])
        q, _, v = block.attn.qkv(rows).chunk(3, dim=-1)
        heads = []
        for head_q, head_v in zip(
            q.chunk(block.attn.heads, dim=-1), v.chunk(block.attn.heads, dim=-1), strict=True
        ):
            alike = torch.einsum("bik,bjk->bij", head_q, head_q) / head_q.shape[-1] ** 0.5
            weights = alike.exp() / alike.exp().sum(dim=-1, keepdim=True)
            heads.append(torch.einsum("bij,bjk->bik", weights, head_v))
        features = tower.proj(tower.ln_post(block.attn.out(torch.cat(heads, dim=-1))))[:, 1:]
    expected = torch.nn.functional.normalize(features, dim=-1).numpy()
    actual = torch_encoder.encode_patches(pixel_values)
    np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree_on_patches(
    torch_encoder: Encoder, tiny_directory: Path, engine: str
) -> None:
    pixel_values = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    patches = Encoder(tiny_directory, engine).encode_patches(pixel_values)
    np.testing.assert_allclose(patches, torch_encoder.encode_patches(pixel_values), atol=1e-4)


def test_only_class_tokens_and_graphs_give_patches(
    tiny_directory: Path, siglip_directory: Path, tmp_path: Path
) -> None:
    assert not twotower.load("small").supports_patches  # convolutional
    assert not Encoder(siglip_directory, "torch").supports_patches
    earlier = shutil.copytree(tiny_directory, tmp_path / "earlier")
    (earlier / "patch_features.onnx").unlink()
    assert Encoder(earlier, "torch").supports_patches
    assert not Encoder(earlier).supports_patches
    with pytest.raises(EngineError, match="convert an earlier one again"):
        Encoder(earlier).encode_patches(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize("turned", [False, True])
def test_patches_of_a_collage_lie_where_it_has_them(
    torch_encoder: Encoder, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patches of one half of a long picture are nearest to the picture that it repeats."""
    monkeypatch.setattr("twotower.encode.explain.SQUARE_SIDES", (1,))
    monkeypatch.setattr("twotower.encode.explain.PATCHES_BESIDE", 0)
    random = np.random.default_rng(1)
    dark, bright = (
        PIL.Image.fromarray(random.integers(low, low + 60, (64, 64, 3), np.uint8))
        for low in (10, 180)
    )
    collage = PIL.Image.new("RGB", (128, 64))
    collage.paste(dark, (0, 0))
    collage.paste(bright, (64, 0))
    if turned:
        collage = collage.rotate(-90, expand=True)
    toward = _patches(torch_encoder, bright)[1].mean(axis=0) - _patches(torch_encoder, dark)[
        1
    ].mean(axis=0)
    boxes, embeds = _patches(torch_encoder, collage)
    assert len(boxes) == len(embeds) == 3 * len(_patches(torch_encoder, dark)[0]), "three squares"
    assert min(map(min, boxes)) == 0 and max(map(max, boxes)) == 128
    heat = _heat(collage, boxes, embeds @ toward)
    if turned:
        heat = heat.T
    assert heat.shape == (48, 96)
    assert heat[:, 64:].min() > heat[:, :32].max()


def test_explained_by_patches(torch_encoder: Encoder) -> None:
    explanation = explain(torch_encoder, PHOTOS / "cat.jpg", "a cat")
    whole = (
        torch_encoder.encode_image(PHOTOS / "cat.jpg")[0] @ torch_encoder.encode_text("a cat")[0]
    )
    assert explanation.score == pytest.approx(float(whole), abs=1e-5)
    assert min(explanation.heat.shape) == 48 and np.ptp(explanation.heat) > 0
