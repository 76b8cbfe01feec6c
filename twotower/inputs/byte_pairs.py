"""CLIP's byte-pair encoding."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CLIP_MERGES = Path(__file__).with_name("clip_merges.u16")
WORD_CACHE_SIZE = 2**17


# --- CLIP's byte pairs -------------------------------------------------------------------------

# OpenAI's pattern: contractions, runs of letters, single digits, runs of anything else.
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
ASCII_WORDS = re.compile(rf"{CONTRACTIONS}|[a-z]+|[0-9]|[^\sa-z0-9]+")


@cache
def clip_byte_pairs(openai: bool) -> Callable[[str], list[int]]:
    """A function from cleaned text to ids; words that were seen before are looked up."""
    pairs = np.fromfile(CLIP_MERGES, "<u2").astype(np.int64)
    keys = (pairs[0::2] << 16 | pairs[1::2]).tolist()
    merges = dict(zip(keys, range(512, 512 + len(keys)), strict=True))
    byte_ids = clip_byte_ids()
    words: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        plain = text.isascii() and text.isprintable()
        found = ASCII_WORDS if plain else unicode_words(openai)
        for word in found.findall(text):
            known = words.get(word)
            if known is None:
                if len(words) >= WORD_CACHE_SIZE:
                    words.clear()
                known = words[word] = _merge([byte_ids[b] for b in word.encode()], merges)
            ids += known
        return ids

    return encode


def _merge(ids: list[int], merges: dict[int, int]) -> list[int]:
    """Join the most frequent pair, again and again; the merged id is also its rank."""
    ids[-1] += 256  # the variants that end a word
    while len(ids) > 1:
        best = min(merges.get(a << 16 | b, 65536) for a, b in pairwise(ids))
        if best == 65536:
            break
        joined, i = [], 0
        while i < len(ids):
            if i + 1 < len(ids) and merges.get(ids[i] << 16 | ids[i + 1]) == best:
                joined.append(best)
                i += 2
            else:
                joined.append(ids[i])
                i += 1
        ids = joined
    return ids


def clip_byte_ids() -> list[int]:
    """The id of each byte value: printable bytes come first in OpenAI's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    return [order.index(byte) for byte in range(256)]


@cache
def unicode_words(openai: bool) -> Any:
    """OpenAI's pattern ignores case even after lower(): then "'ſ" (long s) is a contraction.

    transformers' does not, and its white space leaves out the separators U+001C to U+001F.
    """
    import regex

    other = r"[^\s\p{L}\p{N}]" if openai else r"(?:[^\s\p{L}\p{N}]|[\x1c-\x1f])"
    pattern = rf"{CONTRACTIONS}|\p{{L}}+|\p{{N}}|{other}+"
    return regex.compile(pattern, regex.IGNORECASE if openai else 0)
