"""CLIP's byte-pair encoding, equal to openai/CLIP `clip/simple_tokenizer.py` (commit d05afc4).

Its 48,894 merges are in `clip_merges.u16`: pairs of ids, the most frequent first, from OpenAI's
`bpe_simple_vocab_16e6.txt` (MIT licence).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

CLIP_MERGES = Path(__file__).with_name("clip_merges.u16")
CLIP_SPECIAL_TOKENS = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
WORD_CACHE_SIZE = 2**17

# OpenAI's pattern: contractions, runs of letters, single digits, runs of anything else.
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
ASCII_WORDS = re.compile(rf"{CONTRACTIONS}|[a-z]+|[0-9]|[^\sa-z0-9]+")
_NO_RANK = 2**16


@cache
def byte_pair_encoder(openai: bool) -> Callable[[str], list[int]]:
    """Return a function from cleaned text to ids.

    The ids of words are cached, for at most `WORD_CACHE_SIZE` words.

    Args:
        openai: split words as OpenAI's tokenizer does, otherwise as transformers' (see
            `unicode_words`).
    """
    pairs = np.fromfile(CLIP_MERGES, "<u2").astype(np.int64)
    keys = (pairs[0::2] << 16 | pairs[1::2]).tolist()
    merges = dict(zip(keys, range(512, 512 + len(keys)), strict=True))
    byte_ids = clip_byte_ids()
    word_cache: dict[str, list[int]] = {}

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        pattern = ASCII_WORDS if text.isascii() and text.isprintable() else unicode_words(openai)
        for word in pattern.findall(text):
            word_ids = word_cache.get(word)
            if word_ids is None:
                if len(word_cache) >= WORD_CACHE_SIZE:
                    word_cache.clear()
                word_ids = _merge([byte_ids[byte] for byte in word.encode()], merges)
                word_cache[word] = word_ids
            ids += word_ids
        return ids

    return encode


def _merge(ids: list[int], merges: dict[int, int]) -> list[int]:
    """Join the most frequent pair until none is left.

    Args:
        ids: of a word's bytes.
        merges: by pair (`first << 16 | second`) the merged id, which is also the pair's rank.
    """
    ids[-1] += 256  # the variant that ends a word
    while len(ids) > 1:
        best = min(merges.get(a << 16 | b, _NO_RANK) for a, b in pairwise(ids))
        if best == _NO_RANK:
            break
        merged, i = [], 0
        while i < len(ids):
            if i + 1 < len(ids) and merges.get(ids[i] << 16 | ids[i + 1]) == best:
                merged.append(best)
                i += 2
            else:
                merged.append(ids[i])
                i += 1
        ids = merged
    return ids


def clip_byte_ids() -> list[int]:
    """Return the id of each byte value; printable bytes come first in OpenAI's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    return [order.index(byte) for byte in range(256)]


@cache
def unicode_words(openai: bool) -> Any:
    """Return the pattern that splits any text into words.

    OpenAI's pattern ignores case even after `lower()`: then "'ſ" (long s) is a contraction.
    transformers' does not, and its white space excludes the separators U+001C to U+001F.
    """
    import regex

    symbol = r"[^\s\p{L}\p{N}]" if openai else r"(?:[^\s\p{L}\p{N}]|[\x1c-\x1f])"
    pattern = rf"{CONTRACTIONS}|\p{{L}}+|\p{{N}}|{symbol}+"
    return regex.compile(pattern, regex.IGNORECASE if openai else 0)


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's vocabulary as other tools write it: token -> id, and merges as pairs of tokens.

    Bytes that do not print stand as the characters from U+0100 on; `</w>` ends a word.
    """
    byte_of_id = {number: byte for byte, number in enumerate(clip_byte_ids())}
    characters = [chr(byte_of_id[i] if i < 188 else 256 + i - 188) for i in range(256)]
    tokens = characters + [character + "</w>" for character in characters]
    merges = []
    for head, tail in np.fromfile(CLIP_MERGES, "<u2").reshape(-1, 2).tolist():
        merges.append((tokens[head], tokens[tail]))
        tokens.append(tokens[head] + tokens[tail])
    tokens += CLIP_SPECIAL_TOKENS
    return {token: i for i, token in enumerate(tokens)}, merges
