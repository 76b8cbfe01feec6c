"""Everybody's weights: OpenAI archives, open_clip and transformers directories."""

from __future__ import annotations

from pathlib import Path

from twotower.errors import ModelError
from twotower.model.foreign.open_clip import read_open_clip, write_open_clip
from twotower.model.foreign.openai import read_openai
from twotower.model.foreign.rename import Foreign
from twotower.model.foreign.transformers import read_transformers, write_transformers

__all__ = ["Foreign", "ForeignError", "read_foreign", "write_open_clip", "write_transformers"]


def read_foreign(source: Path) -> Foreign:
    """Read a model in whichever of the three forms it is.

    Raises:
        ForeignError: none of them, or a model that the architecture here cannot express.
        WeightsFileError, UnsafePickleError: its weights cannot be read, or do not fit.
    """
    if source.is_file():
        return read_openai(source)
    if (source / "open_clip_config.json").exists():
        return read_open_clip(source)
    if (source / "config.json").exists():
        return read_transformers(source)
    raise ModelError(
        f"{source}: holds no model; a model directory has a config.json or open_clip_config.json"
    )
