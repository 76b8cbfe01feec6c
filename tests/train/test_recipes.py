"""The recipe of the bundled model on made-up features: what it trains, what it leaves alone."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from twotower.inputs.preprocess import Preprocess
from twotower.model.clip import CLIP
from twotower.model.config import preset
from twotower.train.recipes import (
    LOW_RESOLUTION,
    Pairs,
    image_copies,
    low_resolution,
    read_samples,
    sentence_encoder,
    train_projections,
)


@pytest.fixture(scope="module")
def model() -> CLIP:
    torch.manual_seed(0)
    model = CLIP(preset("twotower-small")).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # else the signal dies away in untrained layers
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


def encoded(size: tuple[int, int], seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_projections_learn_which_belong_together() -> None:
    """64 things, each seen through two random maps of one hidden vector."""
    torch.manual_seed(0)
    model = CLIP(preset("twotower-small")).eval()
    frozen = {name: one.clone() for name, one in model.state_dict().items()}
    hidden = torch.randn(64, 32)
    images, texts = hidden @ torch.randn(32, 1280), hidden @ torch.randn(32, 384)
    pairs = Pairs(
        image_features=images.expand(2, -1, -1),
        classifier_logits=20 * torch.eye(64, 1000),
        captions=texts[:, None].expand(-1, 5, -1),
        classnames=torch.cat([texts, torch.randn(936, 384)])[:, None].expand(-1, 3, -1),
    )
    train_projections(model, pairs, 60, 64, 1e-2, lambda text: None)
    image_embeds = F.normalize(model.vision.proj(images), dim=-1)
    text_embeds = F.normalize(model.text.proj(texts), dim=-1)
    best = (image_embeds @ text_embeds.T).argmax(dim=1)
    assert (best == torch.arange(64)).float().mean() > 0.95
    changed = {
        name for name, one in model.state_dict().items() if not torch.equal(one, frozen[name])
    }
    assert changed == {"vision.proj.weight", "text.proj.weight", "logit_scale"}
    assert model.logit_scale <= np.log(100)


def test_features_are_what_the_towers_project(model: CLIP) -> None:
    pictures = [encoded((60, 80), seed) for seed in range(3)]
    features = image_copies(model, pictures, lambda text: None, batch_size=2)
    preprocess = Preprocess(model.config.preprocess)
    with torch.inference_mode():
        pixel_values = torch.from_numpy(np.stack([preprocess(one) for one in pictures]))
        expected = model.vision(pixel_values)
        torch.testing.assert_close(model.vision.proj(features[0]), expected, rtol=1e-4, atol=1e-5)
    difference = (features[0] - features[1]).norm() / features[0].norm()
    assert difference > 0.05  # the second copy has seen less


def test_low_resolution_keeps_no_detail() -> None:
    stripes = np.zeros((224, 224, 3), np.uint8)
    stripes[::2] = 255  # finer than LOW_RESOLUTION can hold
    blurred = np.asarray(low_resolution(PIL.Image.fromarray(stripes)), int)
    assert blurred.shape == (224, 224, 3) and LOW_RESOLUTION < 112
    assert abs(blurred - 127).max() < 10


def test_sentence_vectors_keep_the_order_of_their_texts(model: CLIP, tmp_path: Path) -> None:
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    words = [special.get(i, f"w{i}") for i in range(200)]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    encode = sentence_encoder(model, tmp_path)
    texts = ["w5 w6 w7 w8", "w9", "w10 w11", "w9 w9 w9", "w12"]
    together = encode(texts, batch_size=2)
    alone = torch.cat([encode([text]) for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert model.text.proj.weight.shape == (512, 384)  # the projection is back in its place


def shard(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_samples_of_shards(tmp_path: Path) -> None:
    first = shard(tmp_path / "a.tar", [("1.webp", b"x"), ("1.json", b"{}"), ("2.webp", b"y")])
    second = shard(tmp_path / "b.tar", [("2.webp", b"z")])
    assert list(read_samples([first, second])) == [
        {"webp": b"x", "json": b"{}"},
        {"webp": b"y"},
        {"webp": b"z"},
    ]
