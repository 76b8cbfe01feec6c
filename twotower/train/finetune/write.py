"""Model directories of the result of a fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from twotower.encode.convert import (
    golden_of_graphs,
    new_directory,
    vocabulary_files,
    write_directory,
    write_text_folder,
)
from twotower.encode.encoder import Encoder
from twotower.encode.golden import write_golden
from twotower.encode.sessions import GRAPH_FILES
from twotower.model.config import CONFIG_FILE, read_config
from twotower.model.weight_files import WEIGHTS_FILE
from twotower.model.weights import keep_unchanged, read_stored
from twotower.train.finetune.frozen_model import FrozenModel

TEXT_FOLDER = "text"  # in the directory of a model whose text tower is in another folder


def write_result(frozen: FrozenModel, changed: Mapping[str, Tensor], destination: Path) -> None:
    """Write the model with changed tensors; the others keep their stored precision.

    An earlier directory of that name is replaced.
    """
    stored_config = read_config(frozen.directory)
    stored = read_stored(stored_config, frozen.directory)
    tensors = keep_unchanged(stored, frozen.model.state_dict() | dict(changed))
    shutil.rmtree(destination, ignore_errors=True)
    only_text = all(name.startswith("text.") for name in changed)
    if stored_config.text_folder is not None and only_text:
        _write_text_tower(frozen, tensors, destination)
        return
    files = vocabulary_files(frozen.config, frozen.text_directory)
    write_directory(frozen.config, tensors, files, destination, frozen.int8)


def _write_text_tower(
    frozen: FrozenModel, tensors: Mapping[str, Tensor], destination: Path
) -> None:
    """Copy the image tower and its graphs, and write the text tower to a folder in the directory.

    Some image towers have no graph that is written without torch's exporter, which takes minutes.
    """
    config = replace(read_config(frozen.directory), text_folder=TEXT_FOLDER)
    files = vocabulary_files(frozen.config, frozen.text_directory)
    with new_directory(destination) as directory:
        for name in (WEIGHTS_FILE, *GRAPH_FILES.values()):
            if (frozen.directory / name).is_file():
                shutil.copyfile(frozen.directory / name, directory / name)
        (directory / CONFIG_FILE).write_text(config.to_json() + "\n", encoding="utf-8")
        write_text_folder(config, tensors, files, directory / TEXT_FOLDER)
        write_golden(golden_of_graphs(directory), directory)
        Encoder(directory).verify()
