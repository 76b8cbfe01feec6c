"""Texts that compete with a query to describe a picture.

A cosine alone means little: some pictures are near every text, and some texts are near every
picture. Whether a picture shows what a query says is judged by how the query stands out among other
texts for the same picture: the words of competitors.txt, and typical captions. This needs no other
pictures, so it holds in every library.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from twotower.arrays import BoolArray, Float32Array, Float64Array, Int64Array, normalize
from twotower.calibration.background import background_texts
from twotower.calibration.captions import singular
from twotower.encode.golden import read_golden
from twotower.files import atomic_write

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

COMPETITORS_FILE = "competitors.safetensors"  # beside the weights of a text tower
NAME_TEMPLATES = ("{}", "a photo of a {}.")

NEAREST = 64  # competitors of each picture that are kept; more are hardly ever related to one query
RIVALS = 10  # nearest competitors that a query is compared with
SYNONYM_COSINE = 0.75  # from which a competitor means the same as a query, after centring
COSINE_UNIT = 0.01  # one logit of CLIP


@dataclass(frozen=True)
class CompetingWord:
    """A word, with its synonyms and the things that it is a kind of."""

    name: str
    kinds: frozenset[str]


@cache
def competing_words() -> tuple[CompetingWord, ...]:
    """Read competitors.txt."""
    path = Path(__file__).parent / "competitors.txt"
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, kinds = line.partition(":")
        words.append(CompetingWord(name, frozenset(filter(None, map(str.strip, kinds.split(","))))))
    return tuple(words)


@cache
def _rows() -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return the row of each competing word, and by synonym and kind the rows of its words."""
    by_name, by_kind = {}, defaultdict(list)
    for row, word in enumerate(competing_words()):
        by_name[word.name] = row
        for kind in word.kinds:
            by_kind[kind].append(row)
    return by_name, by_kind


def kinds_of(name: str) -> frozenset[str]:
    """Return synonyms of a name and what it is a kind of; empty for unknown names.

    Of an unknown name, its last word decides: an "acoustic guitar" is a guitar.
    """
    by_name, _ = _rows()
    if name in by_name:
        return competing_words()[by_name[name]].kinds
    _, _, noun = name.rpartition(" ")
    return competing_words()[by_name[noun]].kinds | {noun} if noun in by_name else frozenset()


@dataclass(frozen=True)
class Standing:
    """The competitors that are nearest to each of n pictures, in one group of competitors.

    Attributes:
        nearest: their rows [n, k], best first.
        scores: their cosines [n, k].
    """

    nearest: Int64Array
    scores: Float32Array

    def features(self, scores: Float32Array, related: BoolArray) -> Float64Array:
        """Return how far a text with cosines `scores` [n] stands out [n, 2].

        That is the distance from the best competitor, and from the mean of the ten best, in logits
        of CLIP.

        Args:
            related: which competitors do not count, because they may mean the same [competitors].
        """
        counts = ~related[self.nearest]  # [n, k]
        counts[:, -1] = True  # where all are related, the last one is a lower limit
        best = self.scores[np.arange(len(counts)), counts.argmax(axis=1)]
        rivals = counts & (np.cumsum(counts, axis=1) <= RIVALS)
        mean = (self.scores * rivals).sum(axis=1) / rivals.sum(axis=1)
        distances = np.stack([scores - best, scores - mean], axis=1)
        return (distances / COSINE_UNIT).astype(np.float64)


@dataclass(frozen=True)
class Competitors:
    """Competing texts in the space of a model.

    Attributes:
        words: text_embeds of `competing_words` [w, embed_dim].
        captions: text_embeds of typical captions [c, embed_dim].
    """

    words: Float32Array
    captions: Float32Array

    def compare(self, image_embeds: Float32Array) -> tuple[Standing, Standing]:
        """Return the nearest words and captions of pictures [n, embed_dim]."""
        return _standing(image_embeds @ self.words.T), _standing(image_embeds @ self.captions.T)

    def related_words(self, names: Sequence[str], embed: Float32Array) -> BoolArray:
        """Return which words [w] may mean the same as a query.

        They are kinds of the query, the words in it, what these are kinds of, and words whose
        embeds are similar.

        Args:
            names: the query, and other names of the same thing.
            embed: of the query [embed_dim].
        """
        related = self._similar_words(embed)
        by_name, by_kind = _rows()
        for name in names:
            related[by_kind.get(plain_name(name), [])] = True
            for word in _words_of(name):
                if (row := by_name.get(word)) is not None:
                    kinds = competing_words()[row].kinds
                    related[[row, *(by_name[kind] for kind in kinds if kind in by_name)]] = True
        return related

    def related_captions(self, embed: Float32Array) -> BoolArray:
        """Return which captions [c] may mean the same as a query."""
        return _similar(self._centred_captions, self.captions.mean(axis=0), embed)

    def _similar_words(self, embed: Float32Array) -> BoolArray:
        return _similar(self._centred_words, self.words.mean(axis=0), embed)

    @cached_property
    def _centred_words(self) -> Float32Array:
        return normalize(self.words - self.words.mean(axis=0))

    @cached_property
    def _centred_captions(self) -> Float32Array:
        return normalize(self.captions - self.captions.mean(axis=0))


def _standing(scores: Float32Array) -> Standing:
    count = min(NEAREST, scores.shape[1])
    nearest = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, nearest, axis=1), axis=1)
    nearest = np.take_along_axis(nearest, order, axis=1).astype(np.int64)
    return Standing(nearest, np.take_along_axis(scores, nearest, axis=1))


def _similar(centred: Float32Array, mean: Float32Array, embed: Float32Array) -> BoolArray:
    return np.asarray(centred @ normalize((embed - mean)[None])[0] > SYNONYM_COSINE)


def plain_name(name: str) -> str:
    """Return a name in lower case, without an article, its last word in the singular."""
    words = without_article(re.sub(r"[\s_-]+", " ", name.strip().lower()))
    *modifiers, noun = words.split() or [""]
    return " ".join([*modifiers, singular(noun)])


def without_article(name: str) -> str:
    """Return a name without an article before it."""
    return re.sub(r"^(a|an|the|some) (?=.)", "", name.strip())


def _words_of(text: str) -> set[str]:
    """Return the words of a text and pairs of adjacent ones, in the singular, and the whole."""
    words = [*map(singular, re.findall(r"[a-z]+", text.lower()))]
    return {plain_name(text), *words, *map(" ".join, pairwise(words))}


# --- embeds --------------------------------------------------------------------------------------


def embed_names(encoder: Encoder, names: Sequence[str]) -> Float32Array:
    """Embed names of things: the mean over `NAME_TEMPLATES`; returns unit vectors [n, embed_dim].

    An article before a name is left out.
    """
    bare = [without_article(name) for name in names]
    prompts = [template.replace("{}", name) for name in bare for template in NAME_TEMPLATES]
    embeds = encoder.encode_text(prompts).reshape(len(bare), len(NAME_TEMPLATES), -1)
    return normalize(embeds.mean(axis=1))


def embed_words(encoder: Encoder) -> Float32Array:
    """Embed the words of competitors.txt [w, embed_dim]."""
    return embed_names(encoder, [word.name for word in competing_words()])


def require_competitors(encoder: Encoder, folder: Path | None = None) -> Competitors:
    """Return the competitors of a model: those stored with its text tower, or estimated ones.

    Args:
        folder: where estimated competitors are kept for the next time, unless it is read-only.
    """
    key = competitors_key(encoder)
    for directory in filter(None, [encoder.config.text_directory(encoder.directory), folder]):
        competitors = read_competitors(directory / COMPETITORS_FILE, key)
        if competitors is not None:
            return competitors
    competitors = Competitors(embed_words(encoder), encoder.encode_text(background_texts()))
    if folder is not None:
        with contextlib.suppress(OSError):
            write_competitors(competitors, folder / COMPETITORS_FILE, key)
            # rounded, as the next time
            return read_competitors(folder / COMPETITORS_FILE, key) or competitors
    return competitors


def competitors_key(encoder: Encoder) -> str:
    """Return what the embeds of competitors belong to: a text tower, and the words."""
    digest = hashlib.sha256(read_golden(encoder.directory).text_embeds.tobytes())
    for word in competing_words():
        digest.update(word.name.encode())
    return digest.hexdigest()[:16]


def read_competitors(path: Path, key: str) -> Competitors | None:
    """Read a file of competitors; None if it is missing, damaged or of another text tower."""
    with contextlib.suppress(OSError, SafetensorError, KeyError), safe_open(path, "np") as file:
        if (file.metadata() or {}).get("key") == key:
            words, captions = (
                file.get_tensor(name).astype(np.float32) * file.get_tensor(f"{name}.scale")
                for name in ("words", "captions")
            )
            return Competitors(normalize(words), normalize(captions))
    return None


def write_competitors(competitors: Competitors, path: Path, key: str) -> None:
    """Write competitors as int8 with a scale for each row, atomically."""
    tensors = {}
    for name, embeds in (("words", competitors.words), ("captions", competitors.captions)):
        scale = np.abs(embeds).max(axis=1, keepdims=True) / 127
        tensors[name] = np.round(embeds / scale).astype(np.int8)
        tensors[f"{name}.scale"] = scale.astype(np.float32)
    with atomic_write(path, "wb") as file:
        file.write(save(tensors, metadata={"key": key}))
