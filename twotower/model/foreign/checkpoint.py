"""Bare weights, such as the checkpoints of open_clip's training runs: the architecture is named."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from twotower.errors import ModelError
from twotower.model.foreign.architectures import architecture
from twotower.model.foreign.open_clip import import_open_clip, open_clip_config
from twotower.model.foreign.openai import DESCRIPTION
from twotower.model.foreign.rename import ForeignModel
from twotower.model.pickles import read_pickle_weights
from twotower.model.weight_files import Arrays, read_arrays

WRAPPERS = r"^(module\.|_orig_mod\.)+"  # of DistributedDataParallel and torch.compile


def read_checkpoint(path: Path, arch: str) -> ForeignModel:
    """Read a `.pt` or `.safetensors` file with the tensors of open_clip, and nothing else.

    The state of the optimizer is left out. Pictures are prepared with open_clip's defaults.

    Args:
        arch: open_clip's name of the architecture (`architecture`).

    Raises:
        ModelError: the file is no file of weights, the name is unknown, or the weights are those
            of another architecture.
    """
    model_cfg = architecture(arch)
    if not path.is_file():
        reason = "no file of bare weights, so its architecture is not named"
        raise ModelError(path, reason, "leave out the architecture (--arch)")
    tensors = _read(path)
    theirs = {re.sub(WRAPPERS, "", name): tensor for name, tensor in tensors.items()}
    for name in DESCRIPTION:
        theirs.pop(name, None)
    config = replace(open_clip_config({"model_cfg": model_cfg}, theirs, path), name=path.stem)
    try:
        return ForeignModel(config, import_open_clip(config, theirs, path))
    except ModelError as error:
        remedy = "name the architecture that it was trained with"
        raise ModelError(path, f"not the weights of {arch} ({error.reason})", remedy) from None


def _read(path: Path) -> Arrays:
    return read_arrays(path) if path.suffix == ".safetensors" else read_pickle_weights(path)
