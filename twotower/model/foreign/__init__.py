"""Models in other formats: OpenAI archives, open_clip and transformers directories, and more."""

from __future__ import annotations

from pathlib import Path

from twotower.errors import ModelError
from twotower.model.foreign.checkpoint import read_checkpoint
from twotower.model.foreign.open_clip import read_open_clip, write_open_clip
from twotower.model.foreign.openai import read_openai
from twotower.model.foreign.rename import ForeignModel
from twotower.model.foreign.sentence_modules import MODULES, write_modules
from twotower.model.foreign.sentence_transformers import read_sentence_transformers
from twotower.model.foreign.transformers import read_transformers, write_transformers

__all__ = [
    "ForeignModel",
    "read_foreign",
    "write_modules",
    "write_open_clip",
    "write_transformers",
]


def read_foreign(source: Path, arch: str | None = None) -> ForeignModel:
    """Read a model in any of the formats.

    Args:
        arch: open_clip's name of the architecture, for a file of bare weights.

    Raises:
        ModelError: no such format, an architecture that `CLIP` does not have, or weights that
            cannot be read or do not fit.
        UnsafePickleError: its weights are a pickle that calls functions.
    """
    if arch is not None:
        return read_checkpoint(source, arch)
    if source.is_file():
        return read_openai(source)
    if (source / MODULES).exists():
        return read_sentence_transformers(source)
    if (source / "open_clip_config.json").exists():
        return read_open_clip(source)
    if (source / "config.json").exists():
        return read_transformers(source)
    raise ModelError(
        source,
        "holds no model",
        "give a directory with a config.json or open_clip_config.json, or an OpenAI .pt file",
    )
