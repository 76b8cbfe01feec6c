"""Real processes over gloo: loss and every gradient equal one process on the joined batch."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.tiny_models import siglip_config, tiny_config
from tests.train.ranks import in_ranks, rows_of_rank
from tests.train.test_accumulate import batch, gradients, loss_of, model_of
from tests.train.test_batches import Numbers
from twotower.model.config import CLIPConfig
from twotower.pairs.shards import pack
from twotower.train.accumulate import backward_batch
from twotower.train.config import (
    DataConfig,
    MemoryConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    with_values,
)
from twotower.train.distributed import logsumexp_over_ranks
from twotower.train.loop import run_steps, train
from twotower.train.loss import tiled_clip_loss, tiled_siglip_loss
from twotower.train.towers import Towers

BATCH = 8
REPEATED = torch.tensor([0, 1, 2, 3, 0, 5, 6, 1]), torch.tensor([0, 1, 2, 3, 4, 2, 6, 7])


# --- the losses alone ----------------------------------------------------------------------------


def embeds() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    pair = torch.randn(2, BATCH, 6, generator=generator, dtype=torch.float64)
    images, texts = torch.nn.functional.normalize(pair, dim=-1)
    return images, texts


def run_loss(rank: int, world: int, folder: Path, sigmoid: bool, repeated: bool) -> None:
    images, texts = (
        tensor.clone().requires_grad_() for tensor in rows_of_rank(rank, world, *embeds())
    )
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.2, -1.0))
    ids = tuple(rows_of_rank(rank, world, *REPEATED)) if repeated else None
    if sigmoid:
        share = tiled_siglip_loss(images, texts, scale, bias, ids=ids, tile=3)
    else:
        share = tiled_clip_loss(images, texts, scale, ids=ids, tile=3) + 0 * bias
    share.backward()
    results = {"loss": share.detach(), "images": images.grad, "texts": texts.grad}
    torch.save(results | {"scale": scale.grad, "bias": bias.grad}, folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "repeated"])
@pytest.mark.parametrize("sigmoid", [False, True], ids=["clip", "siglip"])
def test_shares_add_up(tmp_path: Path, world: int, sigmoid: bool, repeated: bool) -> None:
    run_loss(0, 1, tmp_path, sigmoid, repeated)
    alone = torch.load(tmp_path / "0.pt")
    in_ranks(world, run_loss, tmp_path, sigmoid, repeated)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for name in ("loss", "scale", "bias"):
        total = sum(result[name] for result in ranks)
        torch.testing.assert_close(total, alone[name], rtol=1e-12, atol=1e-14)
    for name in ("images", "texts"):
        joined = torch.cat([result[name] for result in ranks])
        torch.testing.assert_close(joined, alone[name], rtol=1e-11, atol=1e-14)


def run_logsumexp(rank: int, world: int, folder: Path) -> None:
    mine = torch.tensor([1000.0, -torch.inf, 0.0]) if rank else torch.tensor([1000.0, 5.0, -2e4])
    actual = logsumexp_over_ranks(mine)
    expected = torch.tensor([1000.0 + torch.tensor(2.0).log(), 5.0, 0.0])
    torch.testing.assert_close(actual, expected)


def test_logsumexp_of_extremes(tmp_path: Path) -> None:
    in_ranks(2, run_logsumexp, tmp_path)


# --- whole models --------------------------------------------------------------------------------


def run_model(
    rank: int, world: int, folder: Path, config: CLIPConfig, wrapper: str, chunk_size: int
) -> None:
    model = model_of(config, 0.0)
    towers = Towers(model)
    if wrapper == "ddp":
        wrapped = DistributedDataParallel(towers)
    else:
        for block in (*model.vision.blocks, *model.text.blocks):
            fully_shard(block)
        wrapped = fully_shard(towers)
    scalars = [scalar for scalar in (model.logit_scale, model.logit_bias) if scalar is not None]
    pairs = rows_of_rank(rank, world, *batch(config, BATCH))
    loss = backward_batch(wrapped, scalars, *pairs, loss_of(model), chunk_size)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    whole = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()}
    torch.save({"loss": loss, **whole}, folder / f"{rank}.pt")


@pytest.mark.parametrize(
    ("world", "wrapper", "chunk_size", "make"),
    [
        (2, "ddp", 4, tiny_config),
        (2, "ddp", 3, siglip_config),
        (4, "ddp", 1, tiny_config),
        (2, "fsdp", 4, siglip_config),
        (2, "fsdp", 2, tiny_config),
        (4, "fsdp", 1, siglip_config),
    ],
)
def test_gradients_equal_one_process(
    tmp_path: Path, world: int, wrapper: str, chunk_size: int, make: Callable[[], CLIPConfig]
) -> None:
    alone = gradients(make(), BATCH, 0.0, size=BATCH)
    in_ranks(world, run_model, tmp_path, make(), wrapper, chunk_size)
    for rank in range(world):
        grads = torch.load(tmp_path / f"{rank}.pt")
        assert grads.keys() == alone.keys()
        for name, grad in alone.items():
            size = grad.abs().max()
            torch.testing.assert_close(grads[name] / size, grad / size, rtol=0, atol=1e-9)


# --- sharded checkpoints -------------------------------------------------------------------------


def run_fsdp(rank: int, world: int, folder: Path, config: TrainConfig) -> None:
    whole = run_steps(config, folder / "whole").weights()
    if rank == 0:
        shutil.copytree(folder / "whole", folder / "parts")
    dist.barrier()
    middle = folder / "parts" / "checkpoints" / "000000002"
    resumed = run_steps(config, folder / "parts", resume=middle).weights()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_sharded_checkpoints_resume_and_equal_one_process(tmp_path: Path) -> None:
    """The rows of some tensors do not divide by two, such as 17 positions."""
    pack(Numbers(32), tmp_path / "shards")
    config = TrainConfig(
        model=tiny_config(),
        data=DataConfig((str(tmp_path / "shards"),), batch_size=8),
        steps=4,
        optimizer=OptimizerConfig(warmup_steps=2),
        memory=MemoryConfig(wrapper="fsdp"),
        output=OutputConfig(log_every=1, save_every=2),
    )
    in_ranks(2, run_fsdp, tmp_path, config)
    files = {path.name for path in (tmp_path / "whole" / "checkpoints" / "000000002").iterdir()}
    assert {"model-0-of-2.safetensors", "optimizer-1-of-2.safetensors", "state.json"} <= files
    run_steps(with_values(config, {"memory.wrapper": "ddp"}), tmp_path / "alone")
    whole, resumed, alone = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()]
        for run in ("whole", "parts", "alone")
    )
    assert resumed == whole and whole == pytest.approx(alone, rel=1e-4)


# --- a rank that dies ----------------------------------------------------------------------------

DYING = """
import os, signal, sys
from pathlib import Path
from twotower.train.config import TrainConfig
from twotower.train import heartbeat
from twotower.train.loop import run_steps, train
config = TrainConfig.from_json(Path(sys.argv[1]).read_text(), "config")
how = sys.argv[3] if os.environ["RANK"] == "1" else "never"
heartbeat.SILENT = 6.0
if how != "never":
    from twotower.train import loop
    step = loop.Trainer.step
    def dying(self, batch):
        if batch.step == 3:
            if how == "raise":
                raise ValueError("out of ideas")
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        return step(self, batch)
    loop.Trainer.step = dying
train(config, Path(sys.argv[2]))
"""


def torchrun(tmp_path: Path, how: str, **changes: object) -> subprocess.Popen[str]:
    """Start two ranks, of which the second fails as `how` says at step 3."""
    pack(Numbers(32), tmp_path / "shards")
    config = TrainConfig(
        model=tiny_config(),
        data=DataConfig((str(tmp_path / "shards"),), batch_size=8),
        optimizer=OptimizerConfig(warmup_steps=2),
        output=OutputConfig(log_every=1),
        **{"steps": 50} | changes,
    )
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "ranks.py").write_text(DYING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    return subprocess.Popen(
        [*command, tmp_path / "ranks.py", tmp_path / "config.json", tmp_path / "run", how],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "named"),
    [
        # torchrun reports it, unless the other rank ends before and reports it
        ("kill", "(local_rank: 1)|rank 1 (process"),
        # torchrun waits half a minute for a process that does not end
        pytest.param("stop", "rank 1 (process", marks=pytest.mark.slow),
        ("raise", "[rank1]: ValueError: out of ideas"),
    ],
)
def test_the_other_rank_stops_within_a_minute_and_names_the_dead_one(
    tmp_path: Path, how: str, named: str
) -> None:
    process = torchrun(tmp_path, how)
    try:
        _, stderr = process.communicate(timeout=120)  # a minute, the start, and a busy machine
    finally:
        process.kill()
    assert process.returncode != 0
    assert any(name in stderr for name in named.split("|")), stderr[-3000:]
    if how == "stop":
        assert "died or hangs: no heartbeat for 6.0 s" in stderr


def test_torchrun_gives_the_losses_of_one_process(tmp_path: Path) -> None:
    process = torchrun(tmp_path, "never", steps=6)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr[-3000:]
    config = TrainConfig.from_json((tmp_path / "config.json").read_text(), "config")
    train(config, tmp_path / "alone")
    together, alone = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").open()]
        for run in ("run", "alone")
    )
    assert len(alone) == 6 and together == pytest.approx(alone, rel=1e-4)
