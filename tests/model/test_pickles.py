import contextlib
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from twotower.errors import ModelError, UnsafePickleError
from twotower.model.pickles import read_pickle_weights


def tensors() -> dict[str, torch.Tensor]:
    base = torch.randn(6, 5)
    return {
        "plain": base,
        "view": base[1:4, ::2].t(),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3, 2).bfloat16(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "long": torch.arange(4),
        "byte": torch.arange(4, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(torch.randn(2)),
    }


def assert_equal(arrays: dict[str, np.ndarray], expected: dict[str, torch.Tensor]) -> None:
    assert set(arrays) == set(expected)
    for name, tensor in expected.items():
        plain = tensor.detach()
        plain = plain.float() if plain.dtype == torch.bfloat16 else plain
        assert arrays[name].dtype == plain.numpy().dtype and arrays[name].shape == plain.shape
        np.testing.assert_array_equal(arrays[name], plain.numpy())


@pytest.mark.parametrize("nesting", ["none", "state_dict", "model", "odd"])
def test_state_dicts(tmp_path: Path, nesting: str) -> None:
    weights = tensors()
    extra = {"epoch": 3, "name": "x", "optimizer": {"state": {0: {"step": torch.zeros(3)}}}}
    tree = {
        "none": weights,
        "state_dict": extra | {"state_dict": weights},
        "model": extra | {"model": weights},
        "odd": {"epoch": 1, "net": weights},
    }[nesting]
    torch.save(tree, tmp_path / "w.pt")
    assert_equal(read_pickle_weights(tmp_path / "w.pt"), weights)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2).half()
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.linear(x.half()).float())


@pytest.mark.parametrize("how", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(2, 3))])
def test_torchscript_archives(tmp_path: Path, how: object) -> None:
    path = tmp_path / "archive.pt"
    how(Inner().eval()).save(str(path))  # type: ignore[operator]
    assert_equal(read_pickle_weights(path), dict(torch.jit.load(str(path)).state_dict()))


class Call:
    """An object whose pickle is a call of `function(*arguments)`."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def test_no_call_in_a_pickle_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    attacks = {
        "system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "getattr|pathlib": Call(Path.touch, marker),
    }
    for name, attack in attacks.items():
        pickle.loads(pickle.dumps(attack))  # this is what an ordinary reader does
        assert marker.exists()
        marker.unlink()
        torch.save({"state_dict": {"weight": torch.ones(2), "bad": attack}}, tmp_path / "bad.pt")
        with pytest.raises(UnsafePickleError, match=name) as caught:
            read_pickle_weights(tmp_path / "bad.pt")
        assert "bad.pt" in str(caught.value) and "\n" not in str(caught.value)
        assert not marker.exists()


def test_a_script_archive_with_a_malicious_pickle(tmp_path: Path) -> None:
    marker, path = tmp_path / "was-run", tmp_path / "archive.pt"
    torch.jit.script(Inner().eval()).save(str(tmp_path / "good.pt"))
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("data.pkl"):
                content = pickle.dumps(Call(os.system, f"touch {marker}"), protocol=2)
            bad.writestr(name, content)
    with pytest.raises(UnsafePickleError, match="system"):
        read_pickle_weights(path)
    assert not marker.exists()


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    """BUILD can set attributes of the result of GLOBAL, but must not affect the next file."""
    torch.jit.script(Inner().eval()).save(str(tmp_path / "good.pt"))
    expected = read_pickle_weights(tmp_path / "good.pt")
    # GLOBAL __torch__.X ; (None, {"__setstate__": 1}) ; BUILD
    program = b"\x80\x02c__torch__\nX\nN}X\x0c\x00\x00\x00__setstate__K\x01s\x86b."
    with zipfile.ZipFile(tmp_path / "bad.pt", "w") as bad:
        bad.writestr("bad/data.pkl", program)
    with pytest.raises(ModelError):
        read_pickle_weights(tmp_path / "bad.pt")
    arrays = read_pickle_weights(tmp_path / "good.pt")
    assert set(arrays) == set(expected)


def test_truncated_files(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pt")
    whole = (tmp_path / "w.pt").read_bytes()
    for size in [0, 1, 100, *range(200, len(whole), 397), len(whole) - 1]:
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"cut\.pt"):
            read_pickle_weights(tmp_path / "cut.pt")


def test_damaged_numbers_are_detected(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    offset = content.find(np.float32(500).tobytes())
    content[offset] ^= 1
    (tmp_path / "w.pt").write_bytes(bytes(content))
    with pytest.raises(ModelError, match="CRC"):
        read_pickle_weights(tmp_path / "w.pt")


def test_random_damage_raises_only_our_errors(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [name] = [member for member in members if member.endswith("data.pkl")]
    chance = random.Random(0)
    for _ in range(400):
        program = bytearray(members[name])
        for _ in range(chance.randint(1, 4)):
            program[chance.randrange(len(program))] = chance.randrange(256)
        with zipfile.ZipFile(tmp_path / "fuzzed.pt", "w") as archive:
            for member, content in members.items():
                archive.writestr(member, bytes(program) if member == name else content)
        with contextlib.suppress(ModelError):
            read_pickle_weights(tmp_path / "fuzzed.pt")


def test_a_tensor_larger_than_its_numbers(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "short.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content[:8] if "/data/" in name else content)
    with pytest.raises(ModelError, match="does not fit"):
        read_pickle_weights(tmp_path / "short.pt")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1000)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match="compressed"):
        read_pickle_weights(tmp_path / "bomb.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18)])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.pt"):
        read_pickle_weights(tmp_path / "x.pt")
    with pytest.raises(ModelError, match=r"none\.pt"):
        read_pickle_weights(tmp_path / "none.pt")
