"""Wrong settings of a bundled model are found with the example photographs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.cli.main import main
from twotower.encode.load import BUNDLED
from twotower.encode.suspect import Outcome, _compare, _read_folder, _word, suspect
from twotower.errors import LabelError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Every second example photograph, named after its content."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = sorted(path for path in PHOTOS.iterdir() if path.suffix == ".jpg")
    for path in paths[::2]:
        shutil.copy(path, folder)
    return folder


def with_preprocess(tmp_path: Path, **changes: Any) -> Path:
    """Return a copy of the small model that declares another preprocessing."""
    directory = tmp_path / "bundled" / "small"
    shutil.copytree(BUNDLED / "small", directory)
    (tmp_path / "bundled" / "text").symlink_to(BUNDLED / "text")
    path = directory / "config.json"
    tree = json.loads(path.read_text())
    tree["preprocess"] |= changes
    path.write_text(json.dumps(tree))
    return directory


def test_a_model_with_true_settings_is_not_suspected(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "small", "--suspect", str(photos)]) == 0
    output = capsys.readouterr().out
    assert "No other setting is surely better." in output
    assert "resize squash" in output and "mean and deviation ImageNet" in output


def test_a_forgotten_division_by_255_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = with_preprocess(tmp_path, mean=[0, 0, 0], std=[1 / 255] * 3)
    assert main(["verify", str(directory), "--suspect", str(photos)]) == 1
    output = capsys.readouterr().out
    assert "Suspected: mean and deviation " in output and "fits better" in output
    suspicion = suspect(directory, photos)
    assert suspicion.best and suspicion.best.accuracy > suspicion.accuracy + 0.4
    assert suspicion.best.certainty > 4


def test_certainty_needs_both_size_and_number() -> None:
    before = np.zeros(100)
    gains = np.tile([0.4, -0.2], 50)
    gain, certainty = _compare(before, before + gains)
    assert gain == pytest.approx(0.1) and certainty == pytest.approx(3.3, abs=0.1)
    assert not Outcome("x", "y", 1.0, gain, certainty).is_better
    assert Outcome("x", "y", 1.0, gain, 4.1).is_better
    assert not Outcome("x", "y", 1.0, 0.04, 9.0).is_better
    assert _compare(before, before) == (0.0, 0.0)


def test_words_of_files_and_folders(tmp_path: Path) -> None:
    assert _word("light-bulb_2") == "light bulb" and _word("Cat 17") == "cat"
    for name in ("a/1.png", "a/2.jpg", "b/notes.txt", "b/3.webp", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(LabelError, match="has 3 pictures of 2 words; give 20 pictures"):
        _read_folder(tmp_path)
    with pytest.raises(LabelError, match="has 0 pictures"):
        _read_folder(tmp_path / "missing")


def test_architectures_and_texts_are_tried_where_torch_is(
    photos: Path, tiny_directory: Path, siglip_directory: Path
) -> None:
    settings = [outcome.setting for outcome in suspect(tiny_directory, photos).outcomes]
    assert "activation gelu" in settings and "end of text 2" in settings
    assert "padding 1" not in settings  # causal: it does not see its padding
    suspicion = suspect(siglip_directory, photos)
    assert {"padding 0", "context length 16"} <= {row.setting for row in suspicion.outcomes}
    assert suspicion.best is None  # random weights
