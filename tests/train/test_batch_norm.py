"""Batch norm: one loss and one gradient for any number of processes; no chunks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.tiny_models import random_tensors, tiny_config
from tests.train.ranks import in_ranks, rows_of_rank
from tests.train.test_accumulate import loss_of
from tests.train.test_batches import Numbers
from twotower.errors import TrainError
from twotower.model.clip import CLIP
from twotower.model.config import (
    CLIPConfig,
    EfficientNetLiteConfig,
    ResNetConfig,
    TextTransformerConfig,
)
from twotower.pairs.shards import pack
from twotower.train.accumulate import backward_batch
from twotower.train.batch_norm import SynchronizedBatchNorm, synchronize_batch_norms
from twotower.train.config import (
    DataConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    with_values,
)
from twotower.train.estimate import choose_chunk_size, describe
from twotower.train.loop import Trainer, run_steps, train
from twotower.train.recipes import emoji
from twotower.train.towers import Towers, prepare_model

SMALL_TEXT = TextTransformerConfig(77, 49408, 8, 1, 1, 8, "quick_gelu")
SMALL_RESNET = ResNetConfig(64, 8, (1, 1, 1, 1))
BATCH = 6


def modified_resnet() -> CLIPConfig:
    return replace(tiny_config(), vision=SMALL_RESNET, text=SMALL_TEXT)


def emoji_tower() -> CLIPConfig:
    return replace(tiny_config(), vision=emoji().model.vision, text=SMALL_TEXT)


def lite() -> CLIPConfig:
    """Return a small tower of the bundled model's kind, which also has a norm of vectors."""
    vision = EfficientNetLiteConfig(64, 0.1, 0.1, pooled_stages=2, hidden_width=16)
    return replace(tiny_config("tiny-lite"), vision=vision, text=SMALL_TEXT)


def pairs_of() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixel_values = torch.randn(BATCH, 3, 64, 64, generator=generator, dtype=torch.float64)
    input_ids = torch.randint(1, 49000, (BATCH, 12), generator=generator)
    input_ids[:, -1] = 49407
    return pixel_values, input_ids


def model_of(config: CLIPConfig) -> CLIP:
    model = CLIP(config)
    tensors = random_tensors(config)
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor.abs_()
    model.load_state_dict(tensors)
    return model.double().train()


def results(model: CLIP, towers: nn.Module, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Return the loss, all gradients and all running statistics after one batch."""
    pairs = rows_of_rank(rank, world, *pairs_of())
    loss = backward_batch(towers, [model.logit_scale], *pairs, loss_of(model), BATCH)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()}
    assert all(grad is not None for grad in whole.values())
    return {"loss": loss, **whole, **dict(model.named_buffers())}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        size = tensor.abs().max().clamp(min=1)
        torch.testing.assert_close(actual[name] / size, tensor / size, rtol=0, atol=1e-12)


MODELS = {"resnet": modified_resnet, "emoji": emoji_tower, "lite": lite}
SHARED = [*((name, "ddp") for name in MODELS), ("resnet", "fsdp")]


def run_ranks(rank: int, world: int, folder: Path) -> None:
    for name, wrapper in SHARED:
        model = model_of(MODELS[name]())
        synchronize_batch_norms(model)
        towers = Towers(model)
        wrapped = DistributedDataParallel(towers) if wrapper == "ddp" else fully_shard(towers)
        path = folder / f"{name}-{wrapper}-{rank}.pt"
        torch.save(results(model, wrapped, rank, world), path)


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    """Loss, gradients and running statistics, which are updated once."""
    in_ranks(2, run_ranks, tmp_path)
    for name, wrapper in SHARED:
        model = model_of(MODELS[name]())
        alone = results(model, Towers(model))
        counters = [alone[key] for key in alone if key.endswith("num_batches_tracked")]
        assert counters and all(int(counter) == 1 for counter in counters)
        for rank in range(2):
            assert_equal(torch.load(tmp_path / f"{name}-{wrapper}-{rank}.pt"), alone)


@pytest.mark.parametrize("make", [modified_resnet, lite])
def test_frozen_statistics_allow_chunks(make: Callable[[], CLIPConfig]) -> None:
    """The gradients of chunks are those of the whole batch, and no statistic changes."""

    def frozen(chunk_size: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = CLIP(make()).double().train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        loss = backward_batch(
            Towers(model), [model.logit_scale], *pairs_of(), loss_of(model), chunk_size
        )
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        return {"loss": loss, **grads, **dict(model.named_buffers())}

    whole, fresh = frozen(BATCH), dict(CLIP(make()).double().named_buffers())
    assert_equal(frozen(4), whole)
    assert_equal({n: whole[n] for n in fresh}, fresh)


def config_of(folder: Path, model: CLIPConfig, **changes: object) -> TrainConfig:
    if not folder.exists():
        pack(Numbers(24, broken=frozenset()), folder)
    config = TrainConfig(
        model=model,
        data=DataConfig((str(folder),), batch_size=BATCH),
        steps=4,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2),
        output=OutputConfig(log_every=1, save_every=2),
    )
    return with_values(config, changes)


@pytest.mark.parametrize("changes", [{"memory.chunk_size": 4}, {"memory.limit": 10**8}])
def test_chunks_are_refused_before_the_run(tmp_path: Path, changes: dict[str, object]) -> None:
    config = config_of(tmp_path / "shards", modified_resnet(), **changes)
    with pytest.raises(TrainError, match="a batch norm needs all 6 pairs of a rank"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TrainError, match="a batch norm needs all 6 pairs of a rank"):
        list(describe(config))
    for allowed in ({"optimizer.frozen_statistics": True}, {"optimizer.locked": ("vision",)}):
        trainer = Trainer(with_values(config, allowed), tmp_path / "run")
        assert trainer.chunk_size < BATCH


@pytest.mark.parametrize("make", [modified_resnet, emoji_tower, lite])
def test_memory_is_measured_without_a_trace(tmp_path: Path, make: Callable[[], CLIPConfig]) -> None:
    """One pair has no batch statistics, and blank pictures are no part of the running ones."""
    config = config_of(tmp_path / "shards", make(), **{"memory.limit": 8 * 10**9})
    assert "GB for" in "\n".join(describe(config))
    model = prepare_model(config)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert choose_chunk_size(config, Towers(model), torch.device("cpu")) >= BATCH
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def run_resumed(rank: int, world: int, folder: Path, config: TrainConfig) -> None:
    trainer = run_steps(config, folder / "whole")
    norms = [m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert not norms
    assert any(isinstance(m, SynchronizedBatchNorm) for m in trainer.model.modules())
    whole = trainer.weights()
    dist.barrier()
    middle = folder / "whole" / "checkpoints" / "000000002"
    resumed = run_steps(config, folder / "whole", resume=middle).weights()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    if rank == 0:
        torch.save(whole, folder / "two.pt")


def test_a_run_of_two_ranks_resumes_and_equals_one_process(tmp_path: Path) -> None:
    config = config_of(tmp_path / "shards", modified_resnet())
    in_ranks(2, run_resumed, tmp_path, config)
    alone = run_steps(config, tmp_path / "alone").weights()
    joined = torch.load(tmp_path / "two.pt")
    assert joined.keys() == alone.keys()
    name = "vision.stem.bn1.running_mean"
    torch.testing.assert_close(joined[name], alone[name], rtol=1e-4, atol=1e-5)
