"""Named models: those of the package, and those of `models.json`, which the hub has.

Each entry of `models.json` names the source of its facts; a fact without a source is left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from twotower.model.config import OPTIONAL, parse

BUNDLED_MODELS = {"twotower-base": "base", "twotower-small": "small"}  # name -> short name, folder
DEFAULT_MODEL = "twotower-base"
QUICK_MODEL = "twotower-small"  # a large library is indexed with it first, then with the default

REGISTRY_FILE = Path(__file__).with_name("models.json")
FAST_GFLOPS = 15.0  # for each picture; about a ViT-B/32, a third of a ViT-B/16
MULTILINGUAL = "multilingual"


@dataclass(frozen=True)
class NamedModel:
    """A model with a short name.

    Attributes:
        hub: its repository; empty for a model of the package.
        config: the name of its configuration in open_clip; empty for a model of the package.
        sources: for each group of facts, the key of its source in `models.json`.
        revision: the commit to download; if None, that of the first download, which is recorded.
        sha256: of files; that of any other file is recorded at its first download.
        bytes: the size of the weights.
        parameters: in millions.
        gflops: of the image tower for a picture, two for each multiply-add.
        languages: ISO 639 codes of the languages of Crossmodal-3600 in which at least 40 % of the
            captions find their picture first, and English; or "multilingual".
        imagenet: zero-shot top-1 accuracy on ImageNet, in percent.
        coco_text_to_image, coco_image_to_text: recall@1 on MS-COCO, in percent.
    """

    name: str
    hub: str
    config: str
    sources: dict[str, str]
    revision: str | None = field(default=None, metadata=OPTIONAL)
    sha256: dict[str, str] | None = field(default=None, metadata=OPTIONAL)
    bytes: int | None = field(default=None, metadata=OPTIONAL)
    licence: str | None = field(default=None, metadata=OPTIONAL)
    parameters: float | None = field(default=None, metadata=OPTIONAL)
    gflops: float | None = field(default=None, metadata=OPTIONAL)
    embed_dim: int | None = field(default=None, metadata=OPTIONAL)
    image_size: int | None = field(default=None, metadata=OPTIONAL)
    context_length: int | None = field(default=None, metadata=OPTIONAL)
    languages: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    imagenet: float | None = field(default=None, metadata=OPTIONAL)
    coco_text_to_image: float | None = field(default=None, metadata=OPTIONAL)
    coco_image_to_text: float | None = field(default=None, metadata=OPTIONAL)

    @property
    def size(self) -> int | None:
        """Bytes of the weights: as published, or else four for each parameter (float32)."""
        if self.bytes is not None or self.parameters is None:
            return self.bytes
        return round(4e6 * self.parameters)

    def understands(self, languages: Sequence[str]) -> bool:
        """Return True if it is for all these languages."""
        return MULTILINGUAL in self.languages or set(languages) <= set(self.languages)


@dataclass(frozen=True)
class Registry:
    """The content of `models.json`; `sources` are addresses by key."""

    sources: dict[str, str]
    models: tuple[NamedModel, ...]


@cache
def read_registry() -> Registry:
    """Read `models.json`."""
    registry = parse(Registry, REGISTRY_FILE.read_text(encoding="utf-8"), REGISTRY_FILE)
    assert isinstance(registry, Registry)
    return registry


def named_model(name: str | Path) -> NamedModel | None:
    """Return the model of the hub with this name, or None."""
    hub_models = (model for model in read_registry().models if model.hub)
    return next((model for model in hub_models if model.name == str(name)), None)


def bundled_name(model: str | Path) -> str | None:
    """Return the full name of a bundled model from its full or short name; None for others."""
    return next(
        (name for name, short in BUNDLED_MODELS.items() if str(model) in (name, short)), None
    )


def similar_name(name: str, more_names: Sequence[str] = ()) -> str | None:
    """Return the name of a model, or one of `more_names`, that is nearest to a misspelt one."""
    names = [*BUNDLED_MODELS.values(), *(model.name for model in read_registry().models)]
    return next(iter(difflib.get_close_matches(name, [*names, *more_names], 1)), None)


def choose_models(
    *,
    fast: bool = False,
    best: bool = False,
    languages: Sequence[str] = (),
    max_size: int | None = None,
) -> list[NamedModel]:
    """Return the models that meet a need, the recommended one first.

    Without a need they keep the order of the table.

    Args:
        fast: only those with at most `FAST_GFLOPS` for a picture.
        best: the most accurate on ImageNet first; so with any other need.
        languages: codes such as "de", all of which it must understand.
        max_size: bytes of the weights. A model whose size is unknown is left out.
    """
    models = list(read_registry().models)
    if fast:
        models = [model for model in models if (model.gflops or FAST_GFLOPS + 1) <= FAST_GFLOPS]
    if languages:
        models = [model for model in models if model.understands(languages)]
    if max_size is not None:
        models = [model for model in models if (model.size or max_size + 1) <= max_size]
    if fast or best or languages or max_size is not None:
        models.sort(key=lambda model: -(model.imagenet or 0))
    return models
