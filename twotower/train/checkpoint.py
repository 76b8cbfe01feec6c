"""Checkpoints that a crash cannot spoil: complete or not there, and no pickles.

    RUN/checkpoints/000000500/
        model.safetensors, optimizer.safetensors, ema.safetensors    (of one process)
        model-2-of-4.safetensors, ...                                (FSDP: each rank its part)
        state.json      the step and the configuration; written last

A checkpoint is written under another name, flushed to the disk and then renamed. Nothing random is
kept: the order of pairs and every draw are functions of (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from twotower.errors import TrainError
from twotower.train.config import TrainConfig
from twotower.train.distributed import rank, wait_for_all, world_size

FOLDER, STATE = "checkpoints", "state.json"


def save_checkpoint(
    run: Path,
    step: int,
    config: TrainConfig,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    ema: dict[str, Tensor] | None,
    scaler: torch.amp.GradScaler,
) -> Path:
    """Write the state after `step` steps, and remove the oldest beyond `config.keep`.

    Raises:
        TrainError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    final = run / FOLDER / f"{step:09d}"
    writing = final.with_name(f".writing-{step:09d}")
    tensors = {"model": model.state_dict(), "optimizer": _optimizer_tensors(model, optimizers)}
    if ema is not None:
        tensors["ema"] = ema
    try:
        writing.mkdir(parents=True, exist_ok=True)
        for what, named in tensors.items():
            if _sharded(model) or rank() == 0:
                _save(named, writing / _file(what, _sharded(model)))
        wait_for_all()
        if rank() == 0:
            state = {
                "step": step,
                "ranks": world_size() if _sharded(model) else 1,
                "scaler": scaler.state_dict(),  # of float16; else empty
                "config": json.loads(config.to_json()),
            }
            text = json.dumps(state, indent=2)
            _write(writing / STATE, text.encode())
            if final.exists():  # of a run that was resumed from an older one
                shutil.rmtree(final)
            writing.rename(final)
            _flush(final.parent)
            for old in sorted(_complete(run))[: -config.keep]:
                shutil.rmtree(old)
        wait_for_all()
    except (OSError, SafetensorError) as error:
        if rank() == 0:
            shutil.rmtree(writing, ignore_errors=True)
        raise TrainError(
            f"{final}: the checkpoint cannot be written ({error}); "
            f"{_newest_text(run)}, make room and resume"
        ) from None
    return final


def load_checkpoint(
    path: Path,
    config: TrainConfig,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    ema: dict[str, Tensor] | None,
    scaler: torch.amp.GradScaler,
) -> int:
    """Put a checkpoint's state into a fresh model and optimizers.

    Returns:
        How many steps it has done.

    Raises:
        TrainError: missing, damaged, or of another architecture or number of ranks.
    """
    state = read_state(path)
    theirs = TrainConfig.from_json(json.dumps(state["config"]), path / STATE)
    for name in ("model", "optimizer", "locked"):
        if getattr(theirs, name) != getattr(config, name):
            raise TrainError(
                f"{path}: was made with another {name} than this run has; start a new run, or "
                "resume with the configuration it was made with"
            )
    ranks = world_size() if _sharded(model) else 1
    if state["ranks"] != ranks:
        raise TrainError(f"{path}: was written by {state['ranks']} ranks, not {ranks}")
    sharded = _sharded(model)
    _copy_into(model.state_dict(), _load(path / _file("model", sharded)), path)
    if ema is not None:
        _copy_into(ema, _load(path / _file("ema", sharded)), path)
    _load_optimizer(model, optimizers, _load(path / _file("optimizer", sharded)))
    if scaler.is_enabled():
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def newest_checkpoint(run: Path) -> Path:
    """The newest complete one. Raises `TrainError` where there is none."""
    complete = _complete(run)
    if not complete:
        raise TrainError(f"{run}: holds no complete checkpoint; start without --resume")
    return max(complete)


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises `TrainError`."""
    try:
        return dict(json.loads((path / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path}: not a complete checkpoint ({error})") from None


def _complete(run: Path) -> list[Path]:
    return [one.parent for one in (run / FOLDER).glob(f"[0-9]*/{STATE}")]


def _newest_text(run: Path) -> str:
    complete = _complete(run)
    return f"{max(complete)} is the last good one" if complete else "there is no earlier one"


def _file(what: str, sharded: bool) -> str:
    part = f"-{rank()}-of-{world_size()}" if sharded else ""
    return f"{what}{part}.safetensors"


def _sharded(model: nn.Module) -> bool:
    return any(isinstance(one, DTensor) for one in model.parameters())


def _own(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; others are whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _save(named: dict[str, Tensor], path: Path) -> None:
    save_file({name: _own(one).detach().contiguous() for name, one in named.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{path}: damaged or missing ({error})") from None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """The rename itself onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_into(ours: dict[str, Tensor], theirs: dict[str, Tensor], path: Path) -> None:
    different = ours.keys() ^ theirs.keys()
    if different:
        raise TrainError(f"{path}: does not fit this model: {min(different)!r} is not in both")
    with torch.no_grad():
        for name, tensor in ours.items():
            _own(tensor).copy_(theirs[name])


def _members(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> list[tuple[str, nn.Parameter, torch.optim.Optimizer]]:
    """Every parameter that an optimizer moves, with its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        (names[parameter], parameter, optimizer)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def _optimizer_tensors(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """`PARAMETER:STATE` -> tensor, such as "text.proj.weight:exp_avg"."""
    return {
        f"{name}:{key}": torch.as_tensor(value)
        for name, parameter, optimizer in _members(model, optimizers)
        for key, value in optimizer.state[parameter].items()
    }


def _load_optimizer(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    for name, parameter, optimizer in _members(model, optimizers):
        prefix = f"{name}:"
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        for key, value in found.items():
            if isinstance(parameter, DTensor) and value.shape == parameter.to_local().shape:
                value = DTensor.from_local(
                    value,
                    parameter.device_mesh,
                    parameter.placements,
                    shape=parameter.shape,  # rows need not divide by the ranks
                    stride=parameter.stride(),
                )
            counter = key == "step" and not optimizer.defaults.get("fused")
            device = "cpu" if counter else parameter.device
            optimizer.state[parameter][key] = value.to(device)
