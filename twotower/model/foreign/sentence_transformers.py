"""sentence-transformers' layout: `modules.json` names the folder of a `CLIPModel`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.errors import ModelError
from twotower.model.foreign.rename import ForeignModel
from twotower.model.foreign.sentence_modules import MODULES
from twotower.model.foreign.transformers import read_transformers


def read_sentence_transformers(directory: Path) -> ForeignModel:
    """Read a directory of sentence-transformers with a CLIP model, such as clip-ViT-B-32.

    Raises:
        ModelError: its modules are no CLIP model, or that cannot be read.
    """
    path = directory / MODULES
    modules = _modules(path)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds != ["CLIPModel"]:
        raise ModelError(
            path,
            f"consists of {', '.join(kinds) or 'no modules'}, which is no CLIP model",
            "give a model whose only module is a CLIPModel",
        )
    folder = (directory / str(modules[0].get("path", ""))).resolve()
    if not folder.is_relative_to(directory.resolve()):
        raise ModelError(path, "names a folder outside its directory", "download it again")
    model = read_transformers(folder)
    return replace(model, config=replace(model.config, name=directory.name))


def _modules(path: Path) -> list[dict[str, Any]]:
    """Read the list of modules. Raises `ModelError` if it is none."""
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read ({error})", "download it again") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(path, "no list of modules", "download it again")
    return modules
