"""Models that share a text tower, assembled by the recipe."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from recipes.bundle import bundle
from tests.tiny_models import random_tensors, tiny_config
from twotower.encode.convert import convert, write_directory
from twotower.encode.encoder import Encoder
from twotower.encode.golden import file_facts, fingerprint, golden_hash, image_fingerprint
from twotower.errors import ModelError
from twotower.model.config import read_config
from twotower.model.weight_files import read_arrays
from twotower.model.weights import load_model

TEXTS = ["a red car", "two dogs"]


@pytest.fixture(scope="module")
def second_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with other weights than `tiny_directory`."""
    directory = tmp_path_factory.mktemp("models") / "other"
    config = tiny_config("other")
    write_directory(config, random_tensors(config, seed=1), (), directory, int8=True)
    return directory


@pytest.fixture(scope="module")
def bundled(
    tiny_directory: Path, second_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The text tower of `tiny_directory`, and two models with it."""
    folder = tmp_path_factory.mktemp("bundled")
    source = shutil.copytree(tiny_directory, folder / "source")
    (source / "calibration.json").write_text("{}")
    bundle(source, {"small": source, "base": second_model}, folder / "all")
    return folder / "all"


def test_towers_are_those_of_their_sources(
    bundled: Path, tiny_directory: Path, second_model: Path
) -> None:
    picture = np.full((40, 60, 3), 90, np.uint8)
    for name, source in (("small", tiny_directory), ("base", second_model)):
        encoder = Encoder(bundled / name)
        np.testing.assert_allclose(
            encoder.encode_image(picture), Encoder(source).encode_image(picture), atol=1e-6
        )
        np.testing.assert_allclose(
            encoder.encode_text(TEXTS), Encoder(tiny_directory).encode_text(TEXTS), atol=1e-6
        )


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_both_models_reproduce_their_golden_vectors(bundled: Path, engine: str) -> None:
    for name in ("small", "base"):
        assert Encoder(bundled / name, engine).verify() > 0.9999


def test_an_unchanged_model_keeps_its_golden_vectors(bundled: Path, tiny_directory: Path) -> None:
    small, base = bundled / "small", bundled / "base"
    assert golden_hash(small) == golden_hash(tiny_directory)
    assert image_fingerprint(small) == image_fingerprint(tiny_directory)
    assert (small / "calibration.json").exists() and not (base / "calibration.json").exists()


def test_text_weights_are_stored_once(bundled: Path) -> None:
    for name in ("small", "base"):
        stored = read_arrays(bundled / name / "model.safetensors")
        assert not any(tensor.startswith("text.") for tensor in stored)
    stored = read_arrays(bundled / "text" / "model.safetensors")
    assert all(tensor.startswith("text.") for tensor in stored)


def test_identities_cover_the_shared_text_tower(bundled: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundled, tmp_path / "copy")
    before, facts = fingerprint(copy / "base"), file_facts(copy / "base")
    assert before == fingerprint(bundled / "base")
    pictures = image_fingerprint(copy / "base")
    (copy / "text" / "vocab.txt").write_text("words")
    assert fingerprint(copy / "base") != before
    assert file_facts(copy / "base") != facts
    assert image_fingerprint(copy / "base") == pictures


def test_conversion_makes_a_model_of_its_own(bundled: Path, tmp_path: Path) -> None:
    convert(bundled / "base", tmp_path / "alone")
    assert read_config(tmp_path / "alone").text_folder is None
    assert load_model(bundled / "base").config.text_folder is None
    np.testing.assert_allclose(
        Encoder(tmp_path / "alone").encode_text(TEXTS),
        Encoder(bundled / "base").encode_text(TEXTS),
        atol=1e-6,
    )


def test_a_missing_text_folder_is_named(bundled: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(bundled / "base", tmp_path / "base")
    for read in (Encoder, load_model):
        with pytest.raises(ModelError, match=f"its text tower is in {tmp_path}/text"):
            read(alone)
