"""twotower: CLIP for photo libraries, applications and research.

Public names are imported on first use, so that `import twotower` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from twotower.version import __version__

if TYPE_CHECKING:
    from twotower.asking.answer import Answered
    from twotower.asking.ask import ask
    from twotower.asking.classify import Classified, Label, classify
    from twotower.encode.bulk.run import embed
    from twotower.encode.bulk.settings import EmbedSettings
    from twotower.encode.classify import zero_shot_classifier
    from twotower.encode.convert import convert
    from twotower.encode.encoder import Encoder
    from twotower.encode.load import load
    from twotower.encode.stream import EncodedPicture
    from twotower.errors import PictureError, TwotowerError
    from twotower.library import Library
    from twotower.model.config import CLIPConfig
    from twotower.model.presets import preset
    from twotower.search.hits import Hit
    from twotower.train.finetune.fit import fit


_MODULES = {
    "Answered": "asking.answer",
    "CLIPConfig": "model.config",
    "Classified": "asking.classify",
    "EmbedSettings": "encode.bulk.settings",
    "EncodedPicture": "encode.stream",
    "Encoder": "encode.encoder",
    "Hit": "search.hits",
    "Label": "asking.classify",
    "Library": "library",
    "PictureError": "errors",
    "TwotowerError": "errors",
    "ask": "asking.ask",
    "classify": "asking.classify",
    "convert": "encode.convert",
    "embed": "encode.bulk.run",
    "fit": "train.finetune.fit",
    "load": "encode.load",
    "preset": "model.presets",
    "zero_shot_classifier": "encode.classify",
}

__all__ = [
    "Answered",
    "CLIPConfig",
    "Classified",
    "EmbedSettings",
    "EncodedPicture",
    "Encoder",
    "Hit",
    "Label",
    "Library",
    "PictureError",
    "TwotowerError",
    "__version__",
    "ask",
    "classify",
    "convert",
    "embed",
    "fit",
    "load",
    "preset",
    "zero_shot_classifier",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    return getattr(importlib.import_module(f"twotower.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
