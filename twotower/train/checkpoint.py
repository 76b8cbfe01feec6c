"""Checkpoints that are complete or do not exist, without pickles.

    RUN/checkpoints/000000500/
        model.safetensors, optimizer.safetensors, ema.safetensors    (of one process)
        model-2-of-4.safetensors, ...                                (FSDP: a file for each rank)
        state.json      the step, the configuration and the number of pairs

A checkpoint is written to a temporary folder, flushed to the disk and then renamed. No random state
is stored: the order of pairs and all random numbers are functions of (seed, step).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from twotower.errors import TrainError
from twotower.files import atomic_folder, sync_file
from twotower.train.config import TrainConfig, setting_types, value_of
from twotower.train.distributed import rank, wait_for_all, world_size

FOLDER, STATE = "checkpoints", "state.json"
LATEST = "latest"  # in place of the folder of a checkpoint
# With others, the tensors would not fit; or a step would not have the pairs that follow, unless
# their order begins anew.
FIXED_SETTINGS = ("optimizer.name", "optimizer.locked", "optimizer.lora", "seed")
ORDER_SETTINGS = ("data.batch_size", "data.weights", "data.buffer", "data.first_step")
# These change no numbers.
NEUTRAL_SETTINGS = (
    *(
        "data.workers",
        "start_from",
        "loss.initial_scale",
        "loss.initial_bias",
        "tokenizer_files",
        "validation.",
        "output.",
    ),
    *("memory.chunk_size", "memory.limit", "memory.checkpointing", "memory.compile"),
)
SAME_CONFIGURATION = "start a new run, or resume with the configuration it was made with"


@dataclass(frozen=True)
class TrainState:
    """The tensors that a step changes."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    ema: dict[str, Tensor] | None
    scaler: torch.amp.GradScaler  # of float16; else disabled

    @property
    def sharded(self) -> bool:
        """True if each rank holds a part of the tensors (FSDP)."""
        return any(isinstance(weight, DTensor) for weight in self.model.parameters())


def save_checkpoint(
    run: Path, step: int, config: TrainConfig, state: TrainState, pairs: Sequence[int] = ()
) -> Path:
    """Write the state after `step` steps and remove the oldest beyond `config.output.keep`.

    Args:
        pairs: the number of pairs in each source, from which the order of pairs follows.

    Raises:
        TrainError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    path = run / FOLDER / f"{step:09d}"
    tensors = {
        "model": state.model.state_dict(),
        "optimizer": _optimizer_tensors(state.model, state.optimizers),
    }
    if state.ema is not None:
        tensors["ema"] = state.ema
    try:
        with _folder_of_all_ranks(path) as folder:
            if state.sharded or rank() == 0:
                for stem, named_tensors in tensors.items():
                    _save(named_tensors, folder / _file_name(stem, state.sharded))
            if rank() == 0:
                (folder / STATE).write_text(
                    _state_json(step, config, state, pairs), encoding="utf-8"
                )
        if rank() == 0:
            for old in sorted(_complete_checkpoints(run))[: -config.output.keep]:
                shutil.rmtree(old)
        wait_for_all()
    except (OSError, SafetensorError) as error:
        raise TrainError(
            path,
            f"the checkpoint cannot be written ({error})",
            f"{_newest_of(run)}, make room and resume",
        ) from None
    return path


@contextlib.contextmanager
def _folder_of_all_ranks(path: Path) -> Iterator[Path]:
    """Make a temporary folder that all ranks write to and rank 0 renames to `path`."""
    temporary = path.with_name(f".writing-{path.name}")
    if rank() > 0:
        temporary.mkdir(parents=True, exist_ok=True)
        yield temporary
        wait_for_all()
        return
    with atomic_folder(path, temporary):
        yield temporary
        wait_for_all()


def _state_json(step: int, config: TrainConfig, state: TrainState, pairs: Sequence[int]) -> str:
    tree = {
        "step": step,
        "pairs": list(pairs),
        "ranks": world_size() if state.sharded else 1,
        "scaler": state.scaler.state_dict(),
        "config": json.loads(config.to_json()),
    }
    return json.dumps(tree, indent=2)


def load_checkpoint(
    path: Path, config: TrainConfig, state: TrainState, pairs: Sequence[int] = ()
) -> int:
    """Copy a checkpoint into a fresh model and optimizers.

    Warns of settings that are others than before and change the numbers.

    Args:
        pairs: the number of pairs in each source.

    Returns:
        The number of steps that it has done.

    Raises:
        TrainError: missing, damaged, of an earlier version, or of another architecture, optimizer,
            order of pairs or number of ranks; or it has done more steps than the run has.
    """
    stored = check_checkpoint(path, config, pairs)
    _warn_of_changes(stored_config(path), config, path)
    sharded = state.sharded
    ranks = world_size() if sharded else 1
    if stored["ranks"] != ranks:
        raise TrainError(
            path,
            f"was written by {stored['ranks']} ranks, not {ranks}",
            f"resume with {stored['ranks']} ranks",
        )
    _copy_into(state.model.state_dict(), _load(path / _file_name("model", sharded)), path)
    if state.ema is not None:
        _copy_into(state.ema, _load(path / _file_name("ema", sharded)), path)
    optimizer_tensors = _load(path / _file_name("optimizer", sharded))
    _load_optimizers(state.model, state.optimizers, optimizer_tensors)
    if state.scaler.is_enabled():
        state.scaler.load_state_dict(stored["scaler"])
    return int(stored["step"])


def check_checkpoint(path: Path, config: TrainConfig, pairs: Sequence[int]) -> dict[str, Any]:
    """Return the state of a checkpoint that a run can go on from; errors as `load_checkpoint`."""
    stored = read_state(path)
    before = stored_config(path)
    _require_same_run(before, config, path)
    if config.data.first_step != stored["step"]:
        _require_same_order(before, config, path)
        _require_same_pairs(stored.get("pairs", []), list(pairs), path)
    if stored["step"] > config.steps:
        raise TrainError(
            path,
            f"has done {stored['step']} steps, more than the {config.steps} of this run",
            "ask for more steps, or resume from an earlier checkpoint",
        )
    return stored


def _require_same_run(stored: TrainConfig, config: TrainConfig, path: Path) -> None:
    """Raise `TrainError` where a checkpoint's tensors do not fit a run."""
    if stored.model != config.model:
        raise TrainError(path, "was made with another model than this run has", SAME_CONFIGURATION)
    _require_same(FIXED_SETTINGS, stored, config, path, SAME_CONFIGURATION)


def _require_same_order(stored: TrainConfig, config: TrainConfig, path: Path) -> None:
    """Raise `TrainError` if the steps that follow would have other pairs than those that follow."""
    remedy = f"{SAME_CONFIGURATION}, or name the new values beside --resume on the command line"
    _require_same(ORDER_SETTINGS, stored, config, path, remedy)


def _require_same(
    names: Sequence[str], stored: TrainConfig, config: TrainConfig, path: Path, remedy: str
) -> None:
    changes = _changes(stored, config)
    for name in names:
        if name in changes:
            before, after = changes[name]
            raise TrainError(path, f"was made with {name}={before}, not {after}", remedy)


def _require_same_pairs(stored: list[int], pairs: list[int], path: Path) -> None:
    """Raise `TrainError` if sources have other numbers of pairs, so that their order differs."""
    if stored and pairs and stored != pairs:
        before, after = (" and ".join(map(str, counts)) for counts in (stored, pairs))
        raise TrainError(
            path,
            f"was made with {before} pairs, and the sources now have {after}",
            "resume with the same pairs, or name these beside --resume",
        )


def _changes(before: TrainConfig, after: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, with both values."""
    pairs = {name: (value_of(before, name), value_of(after, name)) for name in setting_types()}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _warn_of_changes(before: TrainConfig, after: TrainConfig, path: Path) -> None:
    changes = [
        f"{name}={new} (was {old})"
        for name, (old, new) in _changes(before, after).items()
        if not name.startswith(NEUTRAL_SETTINGS)
    ]
    if changes and rank() == 0:
        warnings.warn(f"{path}: resumes with {', '.join(changes)}", stacklevel=2)


def newest_checkpoint(run: Path) -> Path:
    """Return the newest complete checkpoint. Raises `TrainError` if there is none."""
    complete = _complete_checkpoints(run)
    if not complete:
        raise TrainError(run, "holds no complete checkpoint", "start without --resume")
    return max(complete)


def has_checkpoint(run: Path) -> bool:
    """Return True if a run has a complete checkpoint."""
    return bool(_complete_checkpoints(run))


def read_state(path: Path) -> dict[str, Any]:
    """Return `state.json` of a checkpoint. Raises `TrainError`."""
    try:
        return dict(json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise TrainError(
            path, f"not a complete checkpoint ({error})", 'give another one, or "latest"'
        ) from None


def stored_config(path: Path) -> TrainConfig:
    """Return the configuration that a checkpoint was made with. Raises `TrainError`."""
    return TrainConfig.from_json(json.dumps(read_state(path)["config"]), path / STATE)


def _complete_checkpoints(run: Path) -> list[Path]:
    return [state.parent for state in (run / FOLDER).glob(f"[0-9]*/{STATE}")]


def _newest_of(run: Path) -> str:
    complete = _complete_checkpoints(run)
    return f"{max(complete)} is the last good one" if complete else "there is no earlier one"


def _file_name(stem: str, sharded: bool) -> str:
    shard = f"-{rank()}-of-{world_size()}" if sharded else ""
    return f"{stem}{shard}.safetensors"


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's rows of a sharded tensor, or the whole of another one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    local = {name: _local(tensor).detach().contiguous() for name, tensor in tensors.items()}
    save_file(local, path)
    sync_file(path)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainError(
            path, f"damaged or missing ({error})", "resume from another checkpoint"
        ) from None


def _copy_into(target: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    different = target.keys() ^ stored.keys()
    if different:
        raise TrainError(
            path,
            f"does not fit this model: {min(different)!r} is not in both",
            "resume with the configuration it was made with",
        )
    with torch.no_grad():
        for name, tensor in target.items():
            _local(tensor).copy_(stored[name])


def _optimized_parameters(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> Iterator[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    """Yield each parameter that learns, with its name and optimizer."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[parameter], parameter, optimizer


def _optimizer_tensors(
    model: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return tensors by `PARAMETER:STATE`, such as "text.proj.weight:exp_avg"."""
    return {
        f"{name}:{key}": torch.as_tensor(value)
        for name, parameter, optimizer in _optimized_parameters(model, optimizers)
        for key, value in optimizer.state[parameter].items()
    }


def _load_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    for name, parameter, optimizer in _optimized_parameters(model, optimizers):
        prefix = f"{name}:"
        for stored_name, tensor in tensors.items():
            if stored_name.startswith(prefix):
                key = stored_name.removeprefix(prefix)
                on_cpu = key == "step" and not optimizer.defaults.get("fused")
                device = "cpu" if on_cpu else parameter.device
                optimizer.state[parameter][key] = _shard_like(tensor, parameter).to(device)


def _shard_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a rank's stored rows as a sharded tensor, if they are those of a sharded parameter."""
    if not isinstance(parameter, DTensor) or tensor.shape != parameter.to_local().shape:
        return tensor
    return DTensor.from_local(
        tensor,
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,  # rows need not divide by the ranks
        stride=parameter.stride(),
    )
