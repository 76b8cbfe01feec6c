"""Pre-training, from a configuration to a model directory.

Every random choice is a function of (seed, step): `Batches` chooses the pairs, and each step seeds
its own random numbers. A checkpoint therefore holds tensors and no random state, and a run that was
killed and resumed ends with the same weights, to the bit.
"""

from __future__ import annotations

import json
import math
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from twotower.encode.convert import write_directory
from twotower.errors import ModelError, TrainError
from twotower.files import atomic_write
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source
from twotower.progress import ReportProgress, ignore_progress
from twotower.train.accumulate import backward_batch
from twotower.train.augmentation import augmentation_of
from twotower.train.batches import Batch, Batches, normalize_pixels
from twotower.train.checkpoint import (
    LATEST,
    STATE,
    TrainState,
    check_checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from twotower.train.config import TrainConfig
from twotower.train.distill import Teacher
from twotower.train.distributed import process_group, rank, wait_for_all, world_size
from twotower.train.estimate import choose_chunk_size
from twotower.train.lora import merge_lora
from twotower.train.malloc import keep_freed_memory
from twotower.train.objective import batch_loss
from twotower.train.optimizer import (
    average_weights,
    build_optimizers,
    schedule,
    set_learning_rate,
)
from twotower.train.run_log import LogRow, ReportRow, RunLog, ignore_row, require_tensorboard
from twotower.train.towers import prepare_model, wrap
from twotower.train.validation import Validation

CONFIG = "config.json"
MAX_SCALE = 100.0  # of the softmax loss: Radford et al. 2021, section 2.5


def train(
    config: TrainConfig,
    run: Path,
    resume: str | Path | None = None,
    report: ReportRow = ignore_row,
    progress: ReportProgress = ignore_progress,
    sources: Sequence[Source] | None = None,
) -> Path:
    """Train, and write `RUN/model`: a model directory that `load` opens.

    Args:
        run: a new folder for log, checkpoints and model; with `resume`, the folder of the run.
        resume: a checkpoint, or "latest".
        report: is called with each logged row.
        progress: is called while a teacher embeds the pairs.
        sources: pairs to use instead of those that `config` names.

    Raises:
        TrainError: the run cannot start or go on.
        PairsError: its pairs cannot be read.
    """
    with process_group():
        return run_steps(config, run, resume, report, progress, sources).finish()


def run_steps(
    config: TrainConfig,
    run: Path,
    resume: str | Path | None = None,
    report: ReportRow = ignore_row,
    progress: ReportProgress = ignore_progress,
    sources: Sequence[Source] | None = None,
) -> Trainer:
    """Run the remaining steps of a run; arguments and errors as for `train`."""
    keep_freed_memory()
    trainer = Trainer(config, run, sources)
    next_step = trainer.resume(resume) if resume else trainer.begin()
    trainer.prepare_teacher(progress)
    for batch in trainer.batches(next_step, config.steps):
        row = trainer.step(batch)
        if row and rank() == 0:
            report(row)
    return trainer


class Trainer:
    """A run: its model, optimizers and pairs, and one step of it."""

    def __init__(
        self, config: TrainConfig, run: Path, sources: Sequence[Source] | None = None
    ) -> None:
        """`sources` replace those that `config` names."""
        self.sources = list(sources or map(open_source, config.data.sources))
        self.batches = open_batches(config, self.sources)
        torch.manual_seed(config.seed)
        self.config, self.run = config, run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = prepare_model(config).to(self.device)
        self.towers = wrap(self.model, config)
        self.optimizers = build_optimizers(self.model, config)
        self.scaler = _gradient_scaler(config, self.device)
        self.ema = _copy_weights(self.model) if config.optimizer.ema is not None else None
        self.state = TrainState(self.model, self.optimizers, self.ema, self.scaler)
        self.chunk_size = choose_chunk_size(config, self.towers, self.device)
        teacher = config.loss.teacher
        self.teacher = Teacher(Path(teacher), config.model.embed_dim) if teacher else None
        self.validation = Validation(
            config.validation,
            config.steps,
            self.model,
            self.batches.tokenizer,
            config.data.batch_size,
        )
        self.log = RunLog(run, config.output)
        self._trained = False  # by a step since the model was opened

    def begin(self) -> int:
        """Begin at step 0 in a new folder. Raises `TrainError` if it holds a run."""
        if rank() > 0:  # rank 0 checks and writes, or other ranks would find its files
            return 0
        require_new(self.run)
        begins_at_zero(self.config)
        self._write_config()
        return 0

    def resume(self, resume: str | Path) -> int:
        """Load a checkpoint, and remove later rows of the log. Returns the next step."""
        path = newest_checkpoint(self.run) if resume == LATEST else Path(resume)
        step = load_checkpoint(path, self.config, self.state, self._pairs)
        if rank() == 0:
            self._write_config()
        self.log.cut(step)
        return step

    @property
    def _pairs(self) -> list[int]:
        """The number of pairs in each source."""
        return list(map(len, self.sources))

    def _write_config(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.run / CONFIG) as file:
            file.write(self.config.to_json() + "\n")

    def prepare_teacher(self, progress: ReportProgress) -> None:
        """Embed all pairs with the teacher, if there is one; each rank embeds a share of them."""
        if not self.teacher:
            return
        report = progress if rank() == 0 else ignore_progress
        self.teacher.prepare(self.sources, rank(), world_size(), report)
        wait_for_all()
        self.teacher.open()
        self.log.restart_clock()

    def step(self, batch: Batch) -> LogRow | None:
        """Update the weights once. Returns the row of the log, in steps that are logged."""
        self.log.begin_step()
        torch.manual_seed(hash((self.config.seed, batch.step, rank())) % 2**63)
        self._set_patch_dropout(batch.step)
        loss = self._backward(batch)
        self._require_finite(loss, batch)
        gradient_norm = self._update_weights(batch.step)
        scores = self.validation.scores(batch.step + 1)
        row = self._log(batch, loss, gradient_norm, scores)
        self._save(batch.step + 1)
        self._trained = True
        self.log.end_step()
        return row

    def finish(self) -> Path:
        """Write the trained model (the average of weights, with EMA) as a model directory."""
        destination = self.run / "model"
        if self._is_written(destination):
            return destination
        weights = self.weights()
        if rank() == 0:
            shutil.rmtree(destination, ignore_errors=True)  # of fewer steps
            folder = Path(self.config.tokenizer_files or ".")
            files = [folder / name for name in self.config.model.tokenizer.files]
            write_directory(self.config.model, weights, files, destination)
        return destination

    def _is_written(self, destination: Path) -> bool:
        """Return True for the model of a run that had ended before it was resumed."""
        if self._trained or not destination.exists():
            return False
        checkpoint = newest_checkpoint(self.run)
        times = [file.stat().st_mtime_ns for file in (destination / CONFIG, checkpoint / STATE)]
        return times[0] >= times[1]

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights (the average, with EMA) by the names of a plain model."""
        tensors = self.ema or self.model.state_dict()
        return merge_lora({name: _unshard(tensor).cpu() for name, tensor in tensors.items()})

    def _backward(self, batch: Batch) -> float:
        """Compute the gradients of the whole batch's loss, on every rank; return the loss."""
        pixels = batch.pixels.to(self.device)
        scale = self.scaler.get_scale()
        loss = batch_loss(self.config.loss, self.model, self.teacher, batch)
        scalars = [self.model.logit_scale]
        if self.model.logit_bias is not None:
            scalars.append(self.model.logit_bias)
        scaled_loss = backward_batch(
            self.towers,
            scalars,
            normalize_pixels(pixels, self.config.model.preprocess),
            batch.input_ids.to(self.device),
            lambda image_embeds, text_embeds: loss(image_embeds, text_embeds) * scale,
            self.chunk_size,
        )
        return float(scaled_loss) / scale

    def _update_weights(self, step: int) -> float:
        """Apply the gradients. Returns their norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = self._clip_gradients()
        set_learning_rate(self.optimizers, schedule(step, self.config))
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        with torch.no_grad():
            self.model.logit_scale.clamp_(*logit_scale_limits(self.config))
        if self.ema is not None and self.config.optimizer.ema is not None:
            average_weights(self.ema, self.model, self.config.optimizer.ema)
        return norm

    def _clip_gradients(self) -> float:
        limit = self.config.optimizer.max_grad_norm
        parameters = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        return float(_unshard(norm))

    def _set_patch_dropout(self, step: int) -> None:
        memory = self.config.memory
        masked = step < self.config.steps - memory.unmasked_steps
        if hasattr(self.model.vision, "patch_dropout"):
            self.model.vision.patch_dropout = memory.patch_dropout if masked else 0.0

    def _require_finite(self, loss: float, batch: Batch) -> None:
        """Raise `TrainError` if the loss is not a number, with the step's pairs in a file."""
        if math.isfinite(loss):
            return
        path = self.run / f"non-finite-{batch.step}-rank-{rank()}.json"
        with atomic_write(path) as file:
            json.dump({"step": batch.step, "loss": str(loss), "keys": batch.keys}, file)
        raise TrainError(
            f"step {batch.step}",
            f"the loss is {loss}; the pairs of this step are named in {path}",
            "try a smaller learning rate, a longer warm-up or float32",
        )

    def _log(
        self, batch: Batch, loss: float, gradient_norm: float, scores: dict[str, float]
    ) -> LogRow | None:
        config, step = self.config, batch.step
        row = {
            "step": step,
            "loss": loss,
            "logit_scale": float(self.model.logit_scale.detach().exp()),
            "learning_rate": config.optimizer.lr * schedule(step, config),
            "gradient_norm": gradient_norm,
            "keys": batch.keys[:3],
            **scores,
        }
        return self.log.add(
            typing.cast(LogRow, row),
            broken=len(batch.broken),
            batch_size=config.data.batch_size,
            due=bool(scores) or step + 1 == config.steps,
        )

    def _save(self, done: int) -> None:
        """Write a checkpoint if one is due after `done` steps."""
        if done % self.config.output.save_every == 0 or done == self.config.steps:
            save_checkpoint(self.run, done, self.config, self.state, self._pairs)


def logit_scale_limits(config: TrainConfig) -> tuple[float, float]:
    """Return the limits of logit_scale, which the sigmoid loss does not have by default."""
    sigmoid, limit = config.model.logit_bias, config.loss.max_scale
    if limit is None:
        limit = math.inf if sigmoid else MAX_SCALE
    return -math.inf if sigmoid else 0.0, math.log(limit)


def check_run(config: TrainConfig, run: Path, resume: str | None) -> None:
    """Raise the errors of a run that cannot start, without its weights (`--dry-run`).

    Raises:
        TrainError: the run cannot start or go on.
        PairsError: its pairs cannot be read.
    """
    sources = [open_source(source) for source in config.data.sources]
    if resume:
        path = newest_checkpoint(run) if resume == LATEST else Path(resume)
        check_checkpoint(path, config, list(map(len, sources)))
    else:
        require_new(run)
        begins_at_zero(config)
    open_batches(config, sources)


def begins_at_zero(config: TrainConfig) -> None:
    """Raise `TrainError` if a new run would begin in the middle of its pairs."""
    if config.data.first_step:
        raise TrainError("data.first_step", "a new run begins at step 0", "leave it out")


def require_new(run: Path) -> None:
    """Raise `TrainError` if a folder holds a run."""
    if (run / CONFIG).exists():
        raise TrainError(run, "holds a run already", "resume it or choose another folder")


def open_batches(config: TrainConfig, sources: Sequence[Source]) -> Batches:
    """Open the batches of this rank.

    Raises:
        TrainError: the run cannot start: a batch is too small, or validation cannot work.
        PairsError: fewer pairs than a batch, or held-out pairs that cannot be read.
    """
    validation = config.validation
    if config.memory.wrapper == "fsdp" and (validation.retrieval or validation.zero_shot):
        raise TrainError(
            "memory.wrapper",
            "a sharded model (fsdp) cannot be scored on held-out pairs while it trains",
            "use --set memory.wrapper=ddp, or name no held-out pairs",
        )
    if config.data.batch_size < 2 and config.loss.contrastive_weight:
        raise TrainError(
            "data.batch_size",
            f"a batch of {config.data.batch_size} has nothing to contrast a pair with",
            "use at least 2, and better hundreds",
        )
    for location in filter(None, (validation.retrieval, validation.zero_shot)):
        open_source(location)
    if config.output.tensorboard:
        require_tensorboard()
    data = config.data
    return Batches(
        sources,
        config.model,
        _open_tokenizer(config),
        batch_size=data.batch_size,
        seed=config.seed,
        weights=data.weights or None,
        buffer=data.buffer,
        augmentation=augmentation_of(data),
        first_step=data.first_step,
        workers=data.workers,
        rank=rank(),
        world_size=world_size(),
    )


def _open_tokenizer(config: TrainConfig) -> Tokenizer:
    """Load the tokenizer of a run. Raises `TrainError` if its vocabulary is missing."""
    folder = Path(config.tokenizer_files) if config.tokenizer_files else None
    try:
        return load_tokenizer(config.model.tokenizer, folder)
    except ModelError as error:
        raise TrainError(
            error.subject,
            error.reason,
            "name the folder of its vocabulary with --set tokenizer_files=FOLDER",
        ) from None


def _gradient_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler(device.type, enabled=config.memory.precision == "float16")
    scaler.scale(torch.ones((), device=device))  # initialises the scale, which `get_scale` returns
    return scaler


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _unshard(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole; every rank must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
