"""Text embeds of tags: the mean over all names and descriptions of a tag."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import Float32Array, normalize
from twotower.encode.golden import golden_hash
from twotower.files import atomic_write
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.tagging.vocabulary import Tag

TEMPLATES = ("{}", "a photo of a {}.")
CHUNK_SIZE = 128  # tags between two reports of progress


def embed_tags(
    encoder: Encoder,
    tags: Sequence[Tag],
    cache_folder: Path | None = None,
    report: ReportProgress = ignore_progress,
) -> Float32Array:
    """Embed tags in words.

    Args:
        cache_folder: a folder in which the embeds are kept for this model, if it is writable.
        report: called with the number of tags that are embedded.

    Returns:
        Unit vectors [t, embed_dim].
    """
    cache = _Cache(cache_folder, encoder)
    keys = [_key(tag) for tag in tags]
    missing = [number for number, key in enumerate(keys) if key not in cache.embeds]
    done = len(tags) - len(missing)
    report(Progress(done, len(tags), stage="Reading the vocabulary"))
    for start in range(0, len(missing), CHUNK_SIZE):
        numbers = missing[start : start + CHUNK_SIZE]
        embeds = _embed(encoder, [tags[number] for number in numbers])
        cache.embeds.update(zip((keys[number] for number in numbers), embeds, strict=True))
        report(Progress(done + start + len(numbers), len(tags), stage="Reading the vocabulary"))
    if missing:
        cache.save()
    rows = [cache.embeds[key] for key in keys]
    return np.stack(rows) if rows else np.zeros((0, encoder.config.embed_dim), np.float32)


def embed_sentences(encoder: Encoder, sentences: Sequence[str]) -> Float32Array:
    """Embed whole sentences; returns unit vectors [n, embed_dim], where n may be 0."""
    if not sentences:
        return np.zeros((0, encoder.config.embed_dim), np.float32)
    return encoder.encode_text(list(sentences))


def _embed(encoder: Encoder, tags: Sequence[Tag]) -> Float32Array:
    """Return the normalised mean over the groups of prompts of each tag."""
    prompts = [_prompts(tag) for tag in tags]
    embeds = encoder.encode_text([text for groups in prompts for group in groups for text in group])
    rows, start = [], 0
    for groups in prompts:
        means = []
        for group in groups:
            means.append(embeds[start : start + len(group)].mean(axis=0))
            start += len(group)
        rows.append(normalize(np.stack(means)).mean(axis=0))
    return normalize(np.stack(rows))


def _prompts(tag: Tag) -> list[list[str]]:
    """Return a group of prompts for each name, and one for each description."""
    names = [
        [template.replace("{}", name) for template in TEMPLATES]
        for name in (tag.name, *tag.synonyms)
    ]
    return names + [[description] for description in tag.descriptions]


def _key(tag: Tag) -> str:
    return hashlib.sha256(repr(_prompts(tag)).encode()).hexdigest()[:16]


class _Cache:
    """Embeds by the hash of their prompts, in one file for each model."""

    def __init__(self, folder: Path | None, encoder: Encoder) -> None:
        self.embeds: dict[str, Float32Array] = {}
        self._path = folder / f"tags-{golden_hash(encoder.directory)}.npz" if folder else None
        if self._path is None:
            return
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
        with contextlib.suppress(*damaged), np.load(self._path) as file:
            rows = file["vectors"]
            if rows.shape[1:] == (encoder.config.embed_dim,):
                self.embeds = dict(zip(file["keys"].tolist(), rows, strict=True))

    def save(self) -> None:
        """Write the file; a library that is read-only works without it."""
        if self._path is None:
            return
        with contextlib.suppress(OSError), atomic_write(self._path, "wb") as file:
            np.savez(
                file,
                keys=np.array(list(self.embeds)),
                vectors=np.stack(list(self.embeds.values())),
            )
