"""The two identities of a model."""

import json
import shutil
from pathlib import Path

import pytest

from twotower.encode.golden import GOLDEN_FILE, file_facts, fingerprint, golden_hash


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
