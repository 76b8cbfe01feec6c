"""Tags to vectors: all that a tag is called and described by, in a model's space."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import Float32Array, normalize
from twotower.encode.golden import golden_hash

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.tagging.vocabulary import Tag

TEMPLATES = ("{}", "a photo of a {}.")
CHUNK = 128  # tags between two steps of progress


def tag_vectors(
    model: Encoder,
    tags: Sequence[Tag],
    cache: Path | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Float32Array:
    """A unit vector for each tag [t, embed_dim]: the mean over its names and descriptions.

    Args:
        cache: a folder in which the vectors are kept for this model, where it can be written.
        progress: called with how many more tags are done.
    """
    known = _Cache(cache, model)
    keys = [_key(tag) for tag in tags]
    missing = [place for place, key in enumerate(keys) if key not in known.vectors]
    progress(len(tags) - len(missing))
    for start in range(0, len(missing), CHUNK):
        some = missing[start : start + CHUNK]
        for place, vector in zip(some, _encode(model, [tags[one] for one in some]), strict=True):
            known.vectors[keys[place]] = vector
        progress(len(some))
    if missing:
        known.save()
    rows = [known.vectors[key] for key in keys]
    return np.stack(rows) if rows else np.zeros((0, model.config.embed_dim), np.float32)


def sentence_vectors(model: Encoder, sentences: Sequence[str]) -> Float32Array:
    """Unit vectors of whole sentences [n, embed_dim]."""
    if not sentences:
        return np.zeros((0, model.config.embed_dim), np.float32)
    return model.encode_text(list(sentences))


def _encode(model: Encoder, tags: Sequence[Tag]) -> Float32Array:
    prompts = [_prompts(tag) for tag in tags]
    embeds = model.encode_text([text for groups in prompts for group in groups for text in group])
    rows, start = [], 0
    for groups in prompts:
        parts = []
        for group in groups:
            parts.append(embeds[start : start + len(group)].mean(axis=0))
            start += len(group)
        rows.append(normalize(np.stack(parts)).mean(axis=0))
    return normalize(np.stack(rows))


def _prompts(tag: Tag) -> list[list[str]]:
    """Each name in the templates, and each description."""
    names = [[one.replace("{}", name) for one in TEMPLATES] for name in (tag.name, *tag.synonyms)]
    return names + [[text] for text in tag.descriptions]


def _key(tag: Tag) -> str:
    return hashlib.sha256(repr(_prompts(tag)).encode()).hexdigest()[:16]


class _Cache:
    """Vectors by the hash of what was encoded, in one file for each model."""

    def __init__(self, folder: Path | None, model: Encoder) -> None:
        self.vectors: dict[str, Float32Array] = {}
        self._path = folder / f"tags-{golden_hash(model.directory)}.npz" if folder else None
        if self._path is None:
            return
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with contextlib.suppress(*damaged), np.load(self._path) as file:
            rows = file["vectors"]
            if rows.shape[1:] == (model.config.embed_dim,):
                self.vectors = dict(zip(file["keys"].tolist(), rows, strict=True))

    def save(self) -> None:
        if self._path is None:
            return
        unfinished = self._path.with_name(f"{self._path.stem}.{os.getpid()}.npz")
        with contextlib.suppress(OSError):  # a library that is read-only is answered all the same
            np.savez(
                unfinished,
                keys=np.array(list(self.vectors)),
                vectors=np.stack(list(self.vectors.values())),
            )
            unfinished.replace(self._path)
