"""Tokenizers of transformers, as open_clip names them in `hf_tokenizer_name`.

Settings as in open_clip 3.3.0 (`tokenizer.py`, `HFTokenizer`) and transformers 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twotower.errors import ModelError
from twotower.inputs.tokenizer import Cleaning, TokenizerConfig
from twotower.model.foreign.rename import read_json

TOKENIZER, VOCABULARY = "tokenizer.json", "vocab.txt"
CLEANINGS: dict[str, Cleaning] = {  # open_clip's names
    "whitespace": "whitespace",
    "lower": "openai",
    "canonicalize": "canonicalize",
}


class SpecialTokens(NamedTuple):
    """The tokens around a text, and the one that fills it up."""

    begin: str | None
    end: str
    padding: str


BERT = SpecialTokens("[CLS]", "[SEP]", "[PAD]")
ROBERTA = SpecialTokens("<s>", "</s>", "<pad>")
T5 = SpecialTokens(None, "</s>", "<pad>")
NLLB = SpecialTokens("eng_Latn", "</s>", "<pad>")  # begins with the language, English by default
FAMILIES = ((r"nllb|m2m", NLLB), (r"t5", T5), (r"roberta|xlm", ROBERTA), (r"bert", BERT))


def special_tokens(name: str) -> SpecialTokens | None:
    """Return the special tokens of a tokenizer by its name or class; None if it is unknown."""
    return next((tokens for pattern, tokens in FAMILIES if re.search(pattern, name.lower())), None)


def hub_tokenizer(
    directory: Path, tokens: SpecialTokens, cleaning: Cleaning, context_length: int
) -> TokenizerConfig:
    """Describe the tokenizer whose vocabulary is in `directory`.

    Raises:
        ModelError: the vocabulary is missing, or lacks one of the special tokens.
    """
    path = directory / TOKENIZER
    if path.exists():
        ids = {token["content"]: token["id"] for token in read_json(path).get("added_tokens", [])}
    elif tokens is BERT and (directory / VOCABULARY).exists():
        path = directory / VOCABULARY
        lines = path.read_text(encoding="utf-8").splitlines()
        ids = {token: row for row, token in enumerate(lines)}
    else:
        raise ModelError(directory, f"holds no {TOKENIZER}", "add the vocabulary")
    missing = [token for token in tokens if token is not None and token not in ids]
    if missing:
        raise ModelError(path, f"lacks the token {missing[0]!r}", "copy the model's vocabulary")
    return TokenizerConfig(
        kind="tokenizers" if path.name == TOKENIZER else "wordpiece",
        context_length=context_length,
        cleaning=cleaning,
        pad_id=ids[tokens.padding],
        bos_id=None if tokens.begin is None else ids[tokens.begin],
        eos_id=ids[tokens.end],
        file=path.name,
    )


def open_clip_cleaning(arguments: Mapping[str, Any]) -> Cleaning | None:
    """Return the cleaning of open_clip's `tokenizer_kwargs`; None if it is unknown."""
    return CLEANINGS.get(arguments.get("clean", "whitespace"))
