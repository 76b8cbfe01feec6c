"""The weights of a model directory: exact floats, close int8, and errors that name tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny_models import random_tensors, tiny_config
from twotower.errors import ModelError
from twotower.model.weight_files import save_weights
from twotower.model.weights import (
    GroupedWeight,
    dequantize,
    keep_unchanged,
    load_model,
    quantize,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_floats_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in random_tensors(tiny_config()).items()}
    save_weights(tiny_config(), tensors, tmp_path)
    for name, tensor in load_model(tmp_path).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[name].float()), name


def test_int8_uses_its_whole_range_with_errors_up_to_half_a_step() -> None:
    tensors = {
        "w": torch.randn(5, 70) * torch.logspace(-3, 3, 5)[:, None],
        "k": torch.randn(4, 8, 2, 2),
    }
    stored = quantize(tensors)
    for name, tensor in dequantize(stored).items():
        rows = stored[f"{name}.int8"].flatten(1).int().abs().amax(dim=1)
        assert rows.tolist() == [127] * len(rows)
        step = stored[f"{name}.scale"].view(-1, *[1] * (tensor.ndim - 1))
        assert ((tensor - tensors[name]).abs() <= step * 0.5001).all()


def test_int8_leaves_small_and_sensitive_tensors_unchanged() -> None:
    tensors = {
        "b": torch.randn(5),
        "depthwise": torch.randn(40, 1, 5, 5),
        "x.pos_embed": torch.randn(4, 40),
        "n": torch.arange(80).view(2, 40),
    }
    stored = quantize(tensors)
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(dequantize(quantize({"w": torch.zeros(2, 40)}))["w"], torch.zeros(2, 40))


def test_four_bits_are_packed_and_come_back() -> None:
    levels = torch.randint(-8, 8, (3, 64), dtype=torch.int8)
    levels[0, :3] = torch.tensor([-8, 7, 0])
    weight = GroupedWeight(levels, torch.randn(3, 2).half())
    stored = weight.stored("w")
    assert stored["w.int4"].shape == (3, 2, 16) and stored["w.int4"].dtype == torch.uint8
    assert stored["w.int4"][0, 0, 0] == (0 | 15 << 4)
    scale = weight.scale.float().repeat_interleave(32, dim=1)
    assert torch.equal(dequantize(stored)["w"], levels * scale)
    assert quantize(stored).keys() == stored.keys()


def test_unchanged_tensors_keep_their_stored_precision() -> None:
    weight = GroupedWeight(torch.ones(3, 64, dtype=torch.int8), torch.ones(3, 2).half())
    stored = quantize({"a": torch.randn(2, 40), "b": torch.randn(2, 40), "n": torch.ones(2)})
    stored |= weight.stored("w")
    tensors = dequantize(stored) | {"b": torch.zeros(2, 40)}
    kept = keep_unchanged(stored, tensors)
    assert kept.keys() == {"a.int8", "a.scale", "b", "n", "w.int4", "w.scale"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text.proj.weight"), "lacks 'text.proj.weight'"),
        (lambda t: t.update({"text.proj.bias": torch.ones(32)}), "holds 'text.proj.bias'"),
        (lambda t: t.update({"logit_scale": torch.ones(2)}), "logit_scale has shape (2,)"),
        (
            lambda t: t.update({"text.project": t.pop("text.proj.weight")}),
            "lacks 'text.proj.weight' (found instead: 'text.project')",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    save_weights(tiny_config(), random_tensors(tiny_config()), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(ModelError):
        save_weights(tiny_config(), tensors, tmp_path / "never")
    assert not (tmp_path / "never").exists()
