"""sentence-transformers directories of CLIP: `modules.json`, and a transformers directory below.

Layout as of the published clip-ViT-B-32, which versions 2 to 6 of the library read.
"""

from __future__ import annotations

import json
from pathlib import Path

from twotower.errors import ModelError
from twotower.model.config import CLIPConfig

MODULES, FOLDER = "modules.json", "0_CLIPModel"
MODULE = "sentence_transformers.models.CLIPModel"


def write_modules(config: CLIPConfig, directory: Path) -> Path:
    """Write `modules.json`; make and return the folder of the transformers model.

    Raises:
        ModelError: a SigLIP, which the module CLIPModel of sentence-transformers does not load.
    """
    if config.logit_bias:
        raise ModelError(
            config.name,
            "sentence-transformers has a module for CLIP, and none for SigLIP",
            "convert it to transformers",
        )
    (directory / FOLDER).mkdir()
    modules = [{"idx": 0, "name": "0", "path": FOLDER, "type": MODULE}]
    text = json.dumps(modules, indent=2) + "\n"
    (directory / MODULES).write_text(text, encoding="utf-8")
    return directory / FOLDER
