"""Bare training checkpoints, whose architecture is named, and sentence-transformers' layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_models import random_tensors, tiny_config
from twotower.encode.load import _key, find_model
from twotower.errors import ModelError, UnsafePickleError
from twotower.model.config import CLIPConfig
from twotower.model.foreign import architectures, read_foreign, write_transformers
from twotower.model.foreign.open_clip_tables import open_clip_table
from twotower.model.foreign.rename import export_tensors
from twotower.model.pickles import read_pickle_weights
from twotower.model.weights import as_tensors

TINY = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 2, "head_width": 12}


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add an architecture of the size of `tiny_config`, whose MLPs are wider."""
    monkeypatch.setitem(architectures.CLIPS, "tiny", (32, TINY, (32, 2, 2)))


def open_clip_tensors() -> dict[str, Tensor]:
    """Return weights of the tiny architecture under open_clip's names."""
    config = read_config()
    tensors = random_tensors(config)
    return as_tensors(export_tensors(open_clip_table(config, ""), tensors))


def read_config() -> CLIPConfig:
    from twotower.model.foreign.open_clip import open_clip_config

    tree = {"model_cfg": architectures.architecture("tiny-quickgelu")}
    return open_clip_config(tree, {}, Path("tiny") / "open_clip_config.json")


def checkpoint(tensors: dict[str, Tensor], **entries: Any) -> dict[str, Any]:
    """Return a checkpoint as open_clip's training saves it from several processes."""
    wrapped = {f"module.{name}": torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(1000)}}
    optimizer = {"state": state, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    scaler = {"scale": 65536.0}
    return {"epoch": 3, "name": "run", "state_dict": wrapped, "optimizer": optimizer} | {
        "scaler": scaler,
        **entries,
    }


def test_a_training_checkpoint(tmp_path: Path) -> None:
    theirs = open_clip_tensors()
    average = {name: tensor + 1 for name, tensor in theirs.items()}
    torch.save(checkpoint(theirs, state_dict_ema=average), tmp_path / "epoch_3.pt")
    foreign = read_foreign(tmp_path / "epoch_3.pt", "tiny-quickgelu")
    assert foreign.config.name == "epoch_3" and foreign.config.vision.activation == "quick_gelu"
    assert np.array_equal(foreign.tensors["text.proj.weight"], theirs["text_projection"].T)
    activation = read_foreign(tmp_path / "epoch_3.pt", "tiny").config.text.activation
    assert activation == "gelu"


def test_an_average_alone_is_read(tmp_path: Path) -> None:
    theirs = open_clip_tensors()
    tree = checkpoint({}, state_dict_ema=theirs)
    del tree["state_dict"]
    torch.save(tree, tmp_path / "ema.pt")
    foreign = read_foreign(tmp_path / "ema.pt", "tiny")
    assert np.array_equal(foreign.tensors["logit_scale"], theirs["logit_scale"])


def test_the_state_of_the_optimizer_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its members of the archive may even be damaged."""
    from twotower.model import pickles

    torch.save(checkpoint({"weight": torch.ones(4)}), tmp_path / "run.pt")
    members: list[str] = []
    read = pickles._Archive.read

    def keep(archive: Any, member: str) -> bytes:
        members.append(member)
        return read(archive, member)

    monkeypatch.setattr(pickles._Archive, "read", keep)
    assert list(read_pickle_weights(tmp_path / "run.pt")) == ["module.weight"]
    assert len(members) == 2  # the pickle, and one storage


def test_another_architecture_than_its_name(tmp_path: Path) -> None:
    torch.save(checkpoint(open_clip_tensors()), tmp_path / "run.pt")
    with pytest.raises(ModelError) as caught:
        read_foreign(tmp_path / "run.pt", "ViT-B-32")
    message = str(caught.value)
    assert "not the weights of ViT-B-32" in message and "\n" not in message
    with pytest.raises(ModelError, match="no such architecture"):
        read_foreign(tmp_path / "run.pt", "ViT-B-33")


def test_an_architecture_for_a_directory(tiny_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="architecture of its own"):
        find_model(tiny_directory, "ViT-B-32")
    with pytest.raises(ModelError, match="no file of bare weights"):
        read_foreign(tmp_path, "ViT-B-32")


def test_the_pickle_of_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save(checkpoint(open_clip_tensors(), optimizer=Payload()), tmp_path / "evil.pt")
    with pytest.raises(UnsafePickleError):
        read_foreign(tmp_path / "evil.pt", "tiny")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_convert_with_a_named_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from twotower.cli.main import main

    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    torch.save(checkpoint(open_clip_tensors()), tmp_path / "run.pt")
    arguments = ["convert", str(tmp_path / "run.pt"), str(tmp_path / "model")]
    assert main([*arguments, "--arch", "tiny"]) == 0
    assert main(["verify", str(tmp_path / "run.pt"), "--arch", "tiny-quickgelu"]) == 0
    assert main(["verify", str(tmp_path / "run.pt")]) == 1
    assert "--arch" in capsys.readouterr().err


# sentence-transformers


def sentence_transformers(directory: Path, kind: str = "CLIPModel") -> Path:
    config = tiny_config("layout")
    (directory / "0_CLIPModel").mkdir(parents=True)
    write_transformers(config, random_tensors(config), directory / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    kind = f"sentence_transformers.models.{kind}"
    (directory / "modules.json").write_text(json.dumps([module | {"type": kind}]))
    (directory / "config_sentence_transformers.json").write_text("{}")
    return directory


def test_the_layout_of_sentence_transformers(tmp_path: Path) -> None:
    directory = sentence_transformers(tmp_path / "clip-tiny")
    foreign = read_foreign(directory)
    expected = read_foreign(directory / "0_CLIPModel")
    assert foreign.config.name == "clip-tiny"
    assert foreign.config.vision == expected.config.vision
    assert all(np.array_equal(foreign.tensors[k], expected.tensors[k]) for k in expected.tensors)


def test_a_change_inside_its_folder_is_noticed(tmp_path: Path) -> None:
    directory = sentence_transformers(tmp_path / "clip-tiny")
    before = _key(directory, None)
    (directory / "0_CLIPModel" / "config.json").write_text("{}")
    assert _key(directory, None) != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read"),
        ("{}", "no list of modules"),
        ("[]", "consists of no modules"),
        ('[{"type": "m.Transformer"}, {"type": "m.Pooling"}]', "Transformer, Pooling"),
        ('[{"type": "m.CLIPModel", "path": ".."}]', "outside its directory"),
    ],
)
def test_modules_that_are_no_clip(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_foreign(tmp_path)
