"""Pre-training, from configuration to weights, read top to bottom.

Everything random is a function of (seed, step): `Batches` chooses the pairs, and each step seeds
its own draws. So a checkpoint is weights and moments and nothing else, and a run that was killed
goes on as if nothing had happened, to the bit.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from twotower.encode.convert import write_directory
from twotower.errors import TrainError
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.weights import load_model
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.train.accumulate import Loss, Towers, backward_batch, largest_chunk
from twotower.train.batches import Batch, Batches, normalize_pixels
from twotower.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from twotower.train.config import TrainConfig
from twotower.train.distill import Teacher, affinity_loss, feature_loss
from twotower.train.distributed import rank, wait_for_all, world_size
from twotower.train.heartbeat import Heartbeat
from twotower.train.lora import add_lora, merge_lora
from twotower.train.loss import tiled_clip_loss, tiled_siglip_loss
from twotower.train.optimizer import build_optimizers, schedule, set_learning_rate
from twotower.train.validation import retrieval, zero_shot

LOG, CONFIG = "log.jsonl", "config.json"
LONGEST_WAIT = timedelta(days=1)  # for a rank that works on something; dead ones are found sooner
MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5

Report = Callable[[dict[str, Any]], None]


def train(
    config: TrainConfig,
    run: Path,
    resume: str | Path | None = None,
    report: Report | None = None,
    sources: Sequence[Source] | None = None,
) -> Path:
    """Train, and write `RUN/model`: a model directory that `load` opens.

    Args:
        run: a new folder for log, checkpoints and model; with `resume`, that of the run.
        resume: a checkpoint, or "latest".
        report: is told what each logged step gave.
        sources: are read in place of those that `config` names.

    Raises:
        TrainError: the run cannot start or go on. PairsError: its pairs cannot be read.
    """
    with _process_group():
        return run_steps(config, run, resume, report, sources).finish()


def run_steps(
    config: TrainConfig,
    run: Path,
    resume: str | Path | None = None,
    report: Report | None = None,
    sources: Sequence[Source] | None = None,
) -> Trainer:
    """All steps that a run has left; everything as for `train`."""
    keep_freed_memory()
    trainer = Trainer(config, run, sources)
    first = trainer.resume(resume) if resume else trainer.begin()
    trainer.ask_teacher(report)
    for batch in trainer.batches(first, config.steps):
        told = trainer.step(batch)
        if told and report and rank() == 0:
            report(told)
    return trainer


class Trainer:
    """A run: its model, optimizers and pairs, and what one step does."""

    def __init__(
        self, config: TrainConfig, run: Path, sources: Sequence[Source] | None = None
    ) -> None:
        """`sources` are read in place of those that `config` names."""
        if config.wrapper == "fsdp" and (config.retrieval or config.zero_shot):
            raise TrainError("scores while training need --set wrapper=ddp, or no held-out pairs")
        torch.manual_seed(config.seed)
        self.config, self.run = config, run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = prepare_model(config).to(self.device)
        self.towers = wrap(self.model, config)
        self.optimizers = build_optimizers(self.model, config)
        half = config.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.scaler.scale(torch.ones((), device=self.device))  # else it has no scale to give
        self.ema = _copy_of(self.model) if config.ema is not None else None
        files = Path(config.tokenizer_files) if config.tokenizer_files else None
        self.sources = list(sources or map(open_source, config.sources))
        self.batches = Batches(
            self.sources,
            config.model,
            load_tokenizer(config.model.tokenizer, files),
            batch_size=config.batch_size,
            seed=config.seed,
            weights=config.weights or None,
            buffer=config.buffer,
            zoom=config.zoom,
            workers=config.workers,
            rank=rank(),
            world_size=world_size(),
        )
        self.chunk_size = config.chunk_size or config.batch_size
        if config.memory:
            self.chunk_size = self._chunk_that_fits(config.memory)
        self.teacher = None
        if config.teacher:
            self.teacher = Teacher(Path(config.teacher), config.model.embed_dim)
        self.board: Any = None
        self.waited_since = self.started = time.perf_counter()
        self.waited, self.steps, self.broken = 0.0, 0, 0

    def begin(self) -> int:
        """Start at step 0 in an empty folder."""
        if rank() > 0:  # one looks and writes, or the others would find what it wrote
            return 0
        if (self.run / CONFIG).exists():
            raise TrainError(f"{self.run}: holds a run already; resume it or choose another folder")
        self.run.mkdir(parents=True, exist_ok=True)
        (self.run / CONFIG).write_text(self.config.to_json() + "\n", encoding="utf-8")
        return 0

    def resume(self, resume: str | Path) -> int:
        """Go on from a checkpoint; what was logged after it is cut off."""
        path = newest_checkpoint(self.run) if resume == "latest" else Path(resume)
        state = self.model, self.optimizers, self.ema, self.scaler
        step = load_checkpoint(path, self.config, *state)
        log = self.run / LOG
        if rank() == 0 and log.exists():
            lines = log.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] < step]
            log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        return step

    def ask_teacher(self, report: Report | None) -> None:
        """Have the teacher's answers to all pairs, each rank asking about a share of them."""
        if not self.teacher:
            return

        def advance(done: int, total: int) -> None:
            if report and rank() == 0:
                report({"asked": done, "pairs": total})

        self.teacher.prepare(self.sources, rank(), world_size(), advance)
        wait_for_all()
        self.teacher.open()
        self.waited_since = self.started = time.perf_counter()

    def step(self, batch: Batch) -> dict[str, Any] | None:
        """One update of the weights. Returns what was logged, on steps that are."""
        config, step = self.config, batch.step
        self.waited += time.perf_counter() - self.waited_since
        torch.manual_seed(hash((config.seed, step, rank())) % 2**63)  # whatever is drawn below
        self._set_patch_dropout(step)

        pixels = normalize_pixels(batch.pixels.to(self.device), config.model.preprocess)
        loss = self._backward(pixels, batch)
        if not math.isfinite(loss):
            self._stop(batch, loss)

        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = self._clip_gradients()
        set_learning_rate(self.optimizers, schedule(step, config))
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        if not config.model.logit_bias:  # SigLIP's scale is free to grow
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        self._average_weights()

        scores = self._evaluate(step + 1)
        told = self._log(batch, loss, norm, scores)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            self._save(step + 1)
        self.waited_since = time.perf_counter()
        return told

    def finish(self) -> Path:
        """Write the trained model (the averaged one, with EMA) as a model directory."""
        destination = self.run / "model"
        if destination.exists():  # of a run that had ended before it was resumed
            return destination
        whole = self.weights()
        if rank() == 0:
            tokenizer = self.config.model.tokenizer
            folder = Path(self.config.tokenizer_files or ".")
            files = [folder / tokenizer.file] if tokenizer.file else []
            write_directory(self.config.model, whole, files, destination)
        return destination

    def weights(self) -> dict[str, Tensor]:
        """What was learned (the average, with EMA), under the names of a plain model."""
        tensors = self.ema or self.model.state_dict()
        return merge_lora({name: _whole(one).cpu() for name, one in tensors.items()})

    def _backward(self, pixels: Tensor, batch: Batch) -> float:
        """Gradients of the whole batch's loss, on every rank; its value."""
        config = self.config
        input_ids = batch.input_ids.to(self.device)
        ids = None
        if config.multi_positive:
            ids = batch.image_ids.to(self.device), batch.text_ids.to(self.device)
        scale = self.scaler.get_scale()
        loss_of = self._loss_of(batch, ids)
        scalars = [self.model.logit_scale]
        if self.model.logit_bias is not None:
            scalars.append(self.model.logit_bias)
        loss = backward_batch(
            self.towers,
            scalars,
            pixels,
            input_ids,
            lambda images, texts: loss_of(images, texts) * scale,
            self.chunk_size,
        )
        return float(loss) / scale

    def _loss_of(self, batch: Batch, ids: tuple[Tensor, Tensor] | None) -> Loss:
        """Contrastive, and with a teacher the two that follow it."""
        contrast = contrastive_loss(self.model, ids)
        if not self.teacher:
            return contrast
        config, teacher_scale = self.config, self.teacher.logit_scale
        images, texts = (one.to(self.device) for one in self.teacher.answers(batch))

        def loss(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
            feature = feature_loss(image_embeds, images) + feature_loss(text_embeds, texts)
            affinity = affinity_loss(
                image_embeds, text_embeds, self.model.logit_scale, images, texts, teacher_scale
            )
            return (
                config.contrastive_weight * contrast(image_embeds, text_embeds)
                + config.feature_weight * feature
                + config.affinity_weight * affinity
            )

        return loss

    def _chunk_that_fits(self, memory: int) -> int:
        """Measured on two pairs of full length, so that it does not depend on the first batch."""
        side, length = self.config.model.vision.image_size, self.config.model.text.context_length
        pixel_values = torch.zeros(2, 3, side, side, device=self.device)
        input_ids = torch.ones(2, length, dtype=torch.long, device=self.device)
        input_ids[:, -1] = getattr(self.config.model.text, "eos_id", None) or 1
        return largest_chunk(self.towers, pixel_values, input_ids, memory)

    def _set_patch_dropout(self, step: int) -> None:
        masked = step < self.config.steps - self.config.unmasked_steps
        if hasattr(self.model.vision, "patch_dropout"):
            self.model.vision.patch_dropout = self.config.patch_dropout if masked else 0.0

    def _clip_gradients(self) -> float:
        limit = self.config.max_grad_norm
        parameters = [one for one in self.model.parameters() if one.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        return float(_whole(norm))

    def _average_weights(self) -> None:
        if self.ema is None or self.config.ema is None:
            return
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.ema[name].lerp_(tensor, 1 - self.config.ema)
                else:
                    self.ema[name].copy_(tensor)

    def _stop(self, batch: Batch, loss: float) -> None:
        """Leave what is needed to find out why, and end."""
        path = self.run / f"non-finite-{batch.step}-rank-{rank()}.json"
        path.write_text(json.dumps({"step": batch.step, "loss": str(loss), "keys": batch.keys}))
        raise TrainError(
            f"step {batch.step}: the loss is {loss}; the pairs of this step are named in {path}. "
            "Try a smaller learning rate, longer warm-up or float32"
        )

    def _evaluate(self, done: int) -> dict[str, float]:
        """Scores on held-out pairs, on the steps that have them; no weight or draw is touched."""
        if done % self.config.evaluate_every and done != self.config.steps:
            return {}
        self.model.eval()
        scores: dict[str, float] = {}
        if self.config.retrieval:
            scores |= retrieval(self.model, self.config.retrieval, self.batches.tokenizer)
        if self.config.zero_shot:
            scores |= zero_shot(self.model, self.config.zero_shot, self.batches.tokenizer)
        make_ready(self.model, self.config)
        return scores

    def _log(
        self, batch: Batch, loss: float, norm: float, scores: dict[str, float]
    ) -> dict[str, Any] | None:
        self.broken += len(batch.broken)
        self.steps += 1
        step = batch.step
        if step % self.config.log_every and step + 1 != self.config.steps and not scores:
            return None
        now = time.perf_counter()
        told = {
            "step": step,
            "loss": loss,
            "logit_scale": float(self.model.logit_scale.detach().exp()),
            "learning_rate": self.config.learning_rate * schedule(step, self.config),
            "gradient_norm": norm,
            "pairs_per_second": self.config.batch_size * self.steps / (now - self.started),
            "waited_for_data": self.waited / (now - self.started),
            "broken": self.broken,
            "keys": batch.keys[:3],
            **scores,
        }
        self.started, self.waited, self.steps = now, 0.0, 0
        if rank() == 0:
            with (self.run / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(told) + "\n")
            if self.config.tensorboard:
                self._log_for_tensorboard(told)
        return told

    def _log_for_tensorboard(self, told: dict[str, Any]) -> None:
        if self.board is None:  # what a killed run logged beyond its checkpoint is not shown
            self.board = tensorboard_writer(self.run, told["step"])
        for name, value in told.items():
            if isinstance(value, int | float) and name != "step":
                self.board.add_scalar(name, value, told["step"])
        self.board.flush()

    def _save(self, step: int) -> None:
        state = self.model, self.optimizers, self.ema, self.scaler
        save_checkpoint(self.run, step, self.config, *state)


def prepare_model(config: TrainConfig) -> CLIP:
    """The model to train: fresh or given weights, locked towers, recomputed activations."""
    model = load_model(Path(config.start_from)) if config.start_from else CLIP(config.model)
    for name in config.locked:
        getattr(model, name).requires_grad_(False)
    for tower in (model.vision, model.text):
        if config.lora and any(one.requires_grad for one in tower.parameters()):
            add_lora(tower, config.lora)
        if hasattr(tower, "checkpointing"):
            tower.checkpointing = config.checkpointing
    make_ready(model, config)
    return model


def make_ready(model: CLIP, config: TrainConfig) -> None:
    """Training mode, but for batch norms that stay as they are: those of locked towers, or all."""
    model.train()
    for name in config.locked:
        getattr(model, name).eval()
    if config.frozen_statistics:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()


def wrap(model: CLIP, config: TrainConfig) -> nn.Module:
    """Both towers, compiled and spread over the ranks as the run asks for."""
    towers: Any = Towers(model, getattr(torch, config.precision))
    if config.wrapper == "fsdp" and dist.is_initialized():
        for tower in (model.vision, model.text):
            for block in getattr(tower, "blocks", ()):
                fully_shard(block)
        towers = fully_shard(towers)
    if config.compile:
        towers.compile()
    if config.wrapper == "ddp" and world_size() > 1:
        return DistributedDataParallel(towers)
    return towers


def contrastive_loss(model: CLIP, ids: tuple[Tensor, Tensor] | None) -> Loss:
    """The loss that a model is trained with: sigmoid if it has a bias, else softmax."""
    if model.logit_bias is None:
        return lambda images, texts: tiled_clip_loss(images, texts, model.logit_scale, ids)
    bias = model.logit_bias
    return lambda images, texts: tiled_siglip_loss(images, texts, model.logit_scale, bias, ids)


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving them back to the system at every step.

    Mapping and clearing fresh pages for the activations of each step cost a sixth of it on a CPU
    (benchmarks/speed/train_step.py). Elsewhere than on Linux nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold, mmap_max = -1, -4  # <malloc.h>
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Join the other ranks where torchrun has started several.

    Raises:
        TrainError: another rank died; it is named.
    """
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield
        return
    dist.init_process_group(timeout=LONGEST_WAIT)
    heartbeat = Heartbeat(rank(), world_size())
    try:
        yield
    except RuntimeError as error:  # what a broken connection gives
        why = heartbeat.why()
        heartbeat.stop()
        if not why:
            raise
        raise TrainError(f"rank {rank()} stops: {why}") from error
    except BaseException as error:
        heartbeat.tell(f"rank {rank()} stopped: {type(error).__name__}: {error}")
        heartbeat.stop()
        raise
    heartbeat.leave()
    dist.destroy_process_group()


def tensorboard_writer(run: Path, first_step: int) -> Any:
    """TensorBoard's own, in `RUN/tensorboard`. Raises `TrainError` where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise TrainError("a TensorBoard log needs pip install tensorboard") from None
    make: Any = SummaryWriter
    return make(str(run / "tensorboard"), purge_step=first_step)


def _copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together; every rank must take part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
