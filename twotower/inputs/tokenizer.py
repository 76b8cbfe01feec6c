"""Words to `input_ids`: CLIP's byte pairs, and the word pieces and sentence pieces of its kin.

CLIP's byte pairs are the ones of openai/CLIP `clip/simple_tokenizer.py` (commit d05afc4), id for
id. Their 48 894 merges come with the package as `clip_merges.u16`: pairs of ids, most frequent
first, from OpenAI's `bpe_simple_vocab_16e6.txt` (MIT licence).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from twotower.errors import ModelError
from twotower.inputs.byte_pairs import CLIP_MERGES, clip_byte_ids, clip_byte_pairs
from twotower.inputs.cleaning import CLEANERS, Cleaning

Kind = Literal["bpe", "wordpiece", "sentencepiece", "tokenizers"]


@dataclass(frozen=True)
class TokenizerConfig:
    """How texts become `input_ids`.

    `kind`: "bpe" (CLIP), "wordpiece" (a BERT `vocab.txt`), "sentencepiece" (`spiece.model`) or
    "tokenizers" (`tokenizer.json`). `cleaning`: what is done to a text first, see `CLEANERS`.
    `special_tokens`: literals that stand for ids where the caller asks for it, and never otherwise.
    `file`: the vocabulary in the model's directory; None for CLIP's own merges.
    """

    kind: Kind
    context_length: int
    cleaning: Cleaning
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    special_tokens: dict[str, int] = field(default_factory=dict)
    file: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("kind", Kind), ("cleaning", Cleaning)):
            if getattr(self, name) not in get_args(choices):
                raise ModelError(
                    f"{name} is {getattr(self, name)!r}; give one of {', '.join(get_args(choices))}"
                )
        if self.context_length < 3:
            raise ModelError(f"context_length is {self.context_length}; give 3 or more")


# OpenAI and open_clip pad with 0 (a real token, "!"), transformers with the end of text; under the
# causal mask neither is ever seen.
OPENAI_TOKENIZER = TokenizerConfig(
    kind="bpe",
    context_length=77,
    cleaning="openai",
    pad_id=0,
    bos_id=49406,
    eos_id=49407,
    special_tokens={"<|startoftext|>": 49406, "<|endoftext|>": 49407},
)
SIGLIP_TOKENIZER = TokenizerConfig(
    kind="sentencepiece",
    context_length=64,
    cleaning="canonicalize",
    pad_id=1,
    bos_id=None,
    eos_id=1,
    file="spiece.model",
)
SIGLIP2_TOKENIZER = TokenizerConfig(
    kind="tokenizers",
    context_length=64,
    cleaning="lower",
    pad_id=0,
    bos_id=None,
    eos_id=1,
    file="tokenizer.json",
)


@dataclass(frozen=True)
class Tokens:
    """A batch of n texts: `input_ids` and `attention_mask` [n, context_length], int64.

    `attention_mask` is 1 on real tokens, begin and end included. `truncated` [n] says which texts
    were longer than fits; they keep their begin and end.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Tokenizer:
    """Texts in, `Tokens` out. Made by `load_tokenizer`."""

    def __init__(self, config: TokenizerConfig, encode: Callable[[str], list[int]]) -> None:
        self.config = config
        self.context_length = config.context_length
        self._clean = CLEANERS[config.cleaning]
        self._encode = encode
        literals = sorted(config.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, literals))) if literals else None

    def __call__(self, texts: str | Sequence[str], *, parse_special: bool = False) -> Tokens:
        """Tokenize, add begin and end, cut and pad to `context_length`.

        Args:
            parse_special: let literals such as "<|endoftext|>" in a text stand for their ids, as
                OpenAI's tokenizer does. By default a text is only ever text.
        """
        texts = [texts] if isinstance(texts, str) else texts
        config, size = self.config, self.context_length
        begin = [] if config.bos_id is None else [config.bos_id]
        end = [] if config.eos_id is None else [config.eos_id]
        room = size - len(begin) - len(end)
        input_ids = np.full((len(texts), size), config.pad_id, np.int64)
        lengths = np.empty(len(texts), np.int64)
        for row, text in enumerate(texts):
            body = self.encode_special(text) if parse_special else self.encode(text)
            ids = begin + body[:room] + end
            input_ids[row, : len(ids)] = ids
            lengths[row] = len(begin) + len(body) + len(end)
        attention_mask = (np.arange(size) < lengths[:, None]).astype(np.int64)
        return Tokens(input_ids, attention_mask, lengths > size)

    def encode(self, text: str) -> list[int]:
        """The ids of a text alone: no begin or end, not cut."""
        return self._encode(self._clean(text))

    def encode_special(self, text: str) -> list[int]:
        """The same, with `special_tokens` in the text read as what they stand for."""
        text = self._clean(text)
        if self._special is None:
            return self._encode(text)
        ids: list[int] = []
        start = 0
        for match in self._special.finditer(text):
            ids += self._encode(text[start : match.start()])
            ids.append(self.config.special_tokens[match.group()])
            start = match.end()
        return ids + self._encode(text[start:])


def load_tokenizer(config: TokenizerConfig, directory: Path | None = None) -> Tokenizer:
    """The tokenizer of a model; `directory` holds `config.file`.

    Raises:
        TokenizerError: the vocabulary is missing or cannot be read.
    """
    if config.file is None:
        if config.kind != "bpe":
            raise ModelError(f"a {config.kind} tokenizer needs its vocabulary: name a file")
        return Tokenizer(config, clip_byte_pairs(openai=config.cleaning != "huggingface"))
    path = (directory or Path()) / config.file
    if not path.is_file():
        raise ModelError(f"{path}: no such file; the model's vocabulary is missing")
    if config.kind == "bpe":
        raise ModelError(f"{path}: only CLIP's own merges are read for byte pairs")
    load = {"wordpiece": _word_pieces, "sentencepiece": _sentence_pieces, "tokenizers": _from_json}
    try:
        return Tokenizer(config, load[config.kind](path))
    except Exception as error:  # the libraries raise bare Exception, RuntimeError and more
        raise ModelError(f"{path}: not a {config.kind} vocabulary ({error})") from None


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary as other tools write it: token -> id, and the merges as pairs of tokens.

    Bytes that do not print stand as the characters from U+0100 on, `</w>` ends a word.
    """
    by_id = {number: byte for byte, number in enumerate(clip_byte_ids())}
    letters = [chr(by_id[i] if i < 188 else 256 + i - 188) for i in range(256)]
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = []
    for left, right in np.fromfile(CLIP_MERGES, "<u2").reshape(-1, 2).tolist():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    tokens += OPENAI_TOKENIZER.special_tokens
    return {token: i for i, token in enumerate(tokens)}, merges


# --- vocabularies of others --------------------------------------------------------------------


def _word_pieces(path: Path) -> Callable[[str], list[int]]:
    """BERT's uncased word pieces: one piece on each line of `vocab.txt`."""
    import tokenizers

    lines = path.read_text(encoding="utf-8").splitlines()
    vocabulary = {piece: i for i, piece in enumerate(lines)}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def _sentence_pieces(path: Path) -> Callable[[str], list[int]]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda text: list(processor.encode(text))


def _from_json(path: Path) -> Callable[[str], list[int]]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # in a text they are text
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
