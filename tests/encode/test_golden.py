"""The three identities of a model."""

import json
import shutil
from pathlib import Path

import pytest

from twotower.encode.golden import (
    EARLIER_MODELS,
    GOLDEN_FILE,
    file_facts,
    fingerprint,
    golden_hash,
    has_image_tower,
    image_fingerprint,
)
from twotower.encode.load import find_model
from twotower.encode.onnx import stored_tensors


@pytest.fixture
def model(tmp_path: Path, tiny_directory: Path) -> Path:
    return shutil.copytree(tiny_directory, tmp_path / "model")


def edit_config(model: Path, **fields: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | fields))


def test_fingerprint_covers_all_that_decides_vectors(model: Path) -> None:
    fingerprints = {fingerprint(model)}
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x17")
    fingerprints.add(fingerprint(model))
    preprocess = json.loads((model / "config.json").read_text())["preprocess"]
    edit_config(model, preprocess=preprocess | {"interpolation": "bilinear"})
    fingerprints.add(fingerprint(model))
    (model / "vocab.txt").write_text("words")
    fingerprints.add(fingerprint(model))
    assert len(fingerprints) == 4


def test_fingerprint_leaves_out_what_decides_no_vector(model: Path) -> None:
    before = fingerprint(model)
    edit_config(model, name="renamed", templates=["a {}"])
    (model / "calibration.json").write_text("{}")
    (model / "card.md").write_text("changes nothing")
    assert fingerprint(model) == before


def flip_byte(model: Path, tensor: str) -> None:
    weights = model / "model.safetensors"
    offset = stored_tensors(weights)[tensor].offset
    content = bytearray(weights.read_bytes())
    content[offset] ^= 1
    weights.write_bytes(content)


def test_image_fingerprint_covers_what_decides_vectors_of_pictures(model: Path) -> None:
    fingerprints = {image_fingerprint(model)}
    flip_byte(model, "vision.blocks.0.attn.qkv.weight")
    fingerprints.add(image_fingerprint(model))
    preprocess = json.loads((model / "config.json").read_text())["preprocess"]
    edit_config(model, preprocess=preprocess | {"interpolation": "bilinear"})
    fingerprints.add(image_fingerprint(model))
    assert len(fingerprints) == 3


def test_image_fingerprint_leaves_out_the_text_tower(model: Path, tiny_directory: Path) -> None:
    flip_byte(model, "text.blocks.0.attn.qkv.weight")
    (model / "vocab.txt").write_text("words")
    assert image_fingerprint(model) == image_fingerprint(tiny_directory)
    assert fingerprint(model) != fingerprint(tiny_directory)
    assert has_image_tower(model, image_fingerprint(tiny_directory))
    assert has_image_tower(model, fingerprint(model)), "as catalogs stored it earlier"
    assert not has_image_tower(model, fingerprint(tiny_directory))


def test_libraries_of_earlier_bundled_models_stay_valid() -> None:
    for earlier in EARLIER_MODELS:
        assert has_image_tower(find_model("twotower-small"), earlier)


def test_file_facts_change_with_the_files(model: Path, tiny_directory: Path) -> None:
    facts = file_facts(model)
    assert file_facts(model) == facts
    (model / "vocab.txt").write_text("words")
    assert file_facts(model) != facts
    assert fingerprint(tiny_directory) != fingerprint(model)


def test_golden_hash_follows_the_golden_vectors(model: Path, tiny_directory: Path) -> None:
    assert golden_hash(model) == golden_hash(tiny_directory)
    assert len(golden_hash(model)) == 16
    (model / GOLDEN_FILE).write_bytes(b"other vectors")
    assert golden_hash(model) != golden_hash(tiny_directory)
