"""The identity of a model: a hash over everything that decides its vectors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder


def fingerprint(encoder: Encoder) -> str:
    """Hash weights, architecture, preprocessing and tokenizer."""
    config = asdict(encoder.config)
    del config["name"], config["templates"]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in _model_files(encoder):
        if path.name != "config.json":  # its relevant fields are in `config`
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def file_facts(encoder: Encoder) -> str:
    """Return names, sizes and modification times of the files, as JSON.

    If they are equal, the fingerprint is equal too, and need not be computed.
    """
    stats = [(path.name, path.stat()) for path in _model_files(encoder)]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _model_files(encoder: Encoder) -> list[Path]:
    """Return the weights, the vocabulary and the configuration."""
    suffixes = (".json", ".txt", ".model")
    described = [
        path
        for path in encoder.directory.iterdir()
        if path.suffix in suffixes and path.name != "calibration.json"  # decides no vector
    ]
    return sorted([*described, encoder.directory / "model.safetensors"])
