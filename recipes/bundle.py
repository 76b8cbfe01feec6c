"""Assemble the bundled models, which share one text tower.

    python -m recipes.bundle TEXT SMALL BASE DESTINATION

Takes the text tower of the model directory TEXT and the image towers of SMALL and BASE, and writes
DESTINATION/text, DESTINATION/small and DESTINATION/base. The weights keep their stored precision.
A model whose text tower is that of TEXT keeps its golden vectors, and with them its calibration and
its head; otherwise these are made again by `twotower calibrate` and `twotower train vqa`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from twotower.encode.convert import vocabulary_files, write_directory, write_text_folder
from twotower.encode.encoder import Encoder
from twotower.encode.golden import GOLDEN_FILE
from twotower.model.config import read_config
from twotower.model.weight_files import TEXT_PREFIX
from twotower.model.weights import read_stored

TEXT_FOLDER = "../text"
KEPT = (GOLDEN_FILE, "calibration.json", "head")


def main() -> None:
    """Assemble the models of the command line."""
    text, small, base, destination = map(Path, sys.argv[1:])
    bundle(text, {"small": small, "base": base}, destination)


def bundle(text: Path, models: dict[str, Path], destination: Path) -> None:
    """Write the text tower of `text` and the image towers of `models` (folder -> directory)."""
    config, tensors = read_config(text), read_stored(read_config(text), text)
    destination.mkdir(parents=True, exist_ok=True)
    write_text_folder(config, tensors, vocabulary_files(config, text), destination / "text")
    for name, source in models.items():
        write_image_tower(source, text, destination / name)


def write_image_tower(source: Path, text: Path, destination: Path) -> None:
    """Write the image tower of `source` as a model with the text tower of `text`."""
    config, text_config = read_config(source), read_config(text)
    config = replace(
        config, text=text_config.text, tokenizer=text_config.tokenizer, text_folder=TEXT_FOLDER
    )
    tensors = split_tensors(source)[0] | split_tensors(text)[1]
    write_directory(config, tensors, (), destination)
    if equal_tensors(split_tensors(source)[1], split_tensors(text)[1]):
        for name in KEPT:
            copy(source / name, destination / name)
        Encoder(destination).verify()


def split_tensors(directory: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the stored tensors of a model directory: those of the text tower are the second."""
    stored = read_stored(read_config(directory), directory)
    text = {name: stored[name] for name in stored if name.startswith(TEXT_PREFIX)}
    return {name: stored[name] for name in stored if name not in text}, text


def equal_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return True for tensors of the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def copy(source: Path, destination: Path) -> None:
    """Copy a file or a folder, if it exists."""
    if source.is_dir():
        shutil.copytree(source, destination)
    elif source.exists():
        shutil.copyfile(source, destination)


if __name__ == "__main__":
    main()
