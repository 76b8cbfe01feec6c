"""Texts to `input_ids`: CLIP's byte pairs, and the other vocabularies that CLIP models use."""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from twotower.arrays import BoolArray, Int64Array
from twotower.errors import ModelError
from twotower.inputs.byte_pairs import CLIP_SPECIAL_TOKENS, byte_pair_encoder
from twotower.inputs.lexicon import Lexicon, read_lexicon

Kind = Literal["bpe", "wordpiece", "sentencepiece", "tokenizers"]
Cleaning = Literal[
    "openai",
    "whitespace",
    "huggingface",
    "canonicalize",
    "lower_no_punctuation",
    "lower",
    "none",
]


@dataclass(frozen=True)
class LexiconConfig:
    """Names that get ids of their own, after the tokens of a text.

    Attributes:
        file: the names in the model's directory, one on each line.
        first_id: the id of the first name; the others follow.
        limit: the number of names of a text; further ones are left out.
    """

    file: str
    first_id: int
    limit: int = 16


@dataclass(frozen=True)
class TokenizerConfig:
    """The steps from texts to `input_ids`.

    Attributes:
        kind: "bpe" (CLIP), "wordpiece" (a BERT `vocab.txt`), "sentencepiece" (`spiece.model`) or
            "tokenizers" (`tokenizer.json`).
        cleaning: applied to a text first, see `CLEANERS`.
        special_tokens: literals that are read as ids with `parse_special`, and only then.
        file: the vocabulary in the model's directory; None for CLIP's merges.
        lexicon: names that a text is searched for, or None.

    Raises:
        ModelError: a field has an invalid value.
    """

    kind: Kind
    context_length: int
    cleaning: Cleaning
    pad_id: int
    bos_id: int | None
    eos_id: int | None
    special_tokens: dict[str, int] = field(default_factory=dict)
    file: str | None = None
    lexicon: LexiconConfig | None = field(default=None, metadata={"optional": True})

    def __post_init__(self) -> None:
        for name, choices in (("kind", Kind), ("cleaning", Cleaning)):
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                remedy = f"give one of {', '.join(allowed)}"
                raise ModelError("tokenizer", f"{name} is {value!r}", remedy)
        if self.context_length < 3:
            reason = f"context_length is {self.context_length}"
            raise ModelError("tokenizer", reason, "give 3 or more")

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files in the model's directory."""
        lexicon = self.lexicon.file if self.lexicon else None
        return tuple(name for name in (self.file, lexicon) if name)

    @property
    def max_length(self) -> int:
        """The number of ids of a text: its tokens, and the names of the lexicon."""
        return self.context_length + (self.lexicon.limit if self.lexicon else 0)


# OpenAI and open_clip pad with 0 (a real token, "!"), transformers with the end of text. The causal
# mask hides either from the model.
OPENAI_TOKENIZER = TokenizerConfig(
    kind="bpe",
    context_length=77,
    cleaning="openai",
    pad_id=0,
    bos_id=49406,
    eos_id=49407,
    special_tokens=dict(CLIP_SPECIAL_TOKENS),
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
    """A batch of n tokenized texts.

    Attributes:
        input_ids: [n, max_length], the tokens, the names of the lexicon, and padding.
        attention_mask: [n, max_length], 1 on the tokens of a text, begin and end included.
        lengths: [n], the number of ids other than padding.
        truncated: [n], True for texts that were cut; they keep their begin and end.
    """

    input_ids: Int64Array
    attention_mask: Int64Array
    lengths: Int64Array
    truncated: BoolArray


class Tokenizer:
    """Turns texts into `Tokens`; made by `load_tokenizer`."""

    def __init__(
        self,
        config: TokenizerConfig,
        encode: Callable[[str], list[int]],
        lexicon: Lexicon | None = None,
    ) -> None:
        self.config = config
        self.context_length = config.context_length
        self._clean = CLEANERS[config.cleaning]
        self._encode = encode
        self._lexicon = lexicon
        literals = sorted(config.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, literals))) if literals else None

    def __call__(self, texts: str | Sequence[str], *, parse_special: bool = False) -> Tokens:
        """Tokenize texts, add begin and end, cut to `context_length`, add the names of the lexicon
        and pad to `max_length`.

        Args:
            parse_special: read literals such as "<|endoftext|>" in a text as their ids, as
                OpenAI's tokenizer does. By default they are plain text.
        """
        texts = [texts] if isinstance(texts, str) else texts
        config, size = self.config, self.context_length
        begin = [] if config.bos_id is None else [config.bos_id]
        end = [] if config.eos_id is None else [config.eos_id]
        room = size - len(begin) - len(end)
        input_ids = np.full((len(texts), config.max_length), config.pad_id, np.int64)
        token_counts = np.empty(len(texts), np.int64)  # before cutting
        lengths = np.empty(len(texts), np.int64)
        for row, text in enumerate(texts):
            body = self.encode_special(text) if parse_special else self.encode(text)
            ids = begin + body[:room] + end + self.lexicon_ids(text)
            input_ids[row, : len(ids)] = ids
            token_counts[row] = len(begin) + len(body) + len(end)
            lengths[row] = len(ids)
        positions = np.arange(config.max_length)
        attention_mask = positions < np.minimum(token_counts, size)[:, None]
        return Tokens(input_ids, attention_mask.astype(np.int64), lengths, token_counts > size)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without begin and end, not cut."""
        return self._encode(self._clean(text))

    def lexicon_ids(self, text: str) -> list[int]:
        """Return the ids of the names of the lexicon in a text, at most its limit."""
        if self._lexicon is None or self.config.lexicon is None:
            return []
        rows = self._lexicon.find(text)[: self.config.lexicon.limit]
        return [self.config.lexicon.first_id + row for row in rows]

    def encode_special(self, text: str) -> list[int]:
        """Return the ids of a text like `encode`, with `special_tokens` in it read as their ids."""
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
    """Load the tokenizer of a model.

    Args:
        directory: contains `config.file` and the names of the lexicon.

    Raises:
        ModelError: the vocabulary is missing or cannot be read.
    """
    if config.file is None:
        if config.kind != "bpe":
            reason = f"a {config.kind} tokenizer has no built-in vocabulary"
            raise ModelError("tokenizer", reason, "name a file with the vocabulary")
        return Tokenizer(config, byte_pair_encoder(openai=config.cleaning != "huggingface"))
    path = (directory or Path()) / config.file
    if not path.is_file():
        remedy = "copy the model's vocabulary there"
        raise ModelError(path, "no such file", remedy)
    if config.kind == "bpe":
        reason = "a vocabulary of byte pairs, which are read from CLIP's own merges only"
        raise ModelError(path, reason, "leave `file` out of the tokenizer's configuration")
    load = {"wordpiece": _word_pieces, "sentencepiece": _sentence_pieces, "tokenizers": _from_json}
    try:
        encode = load[config.kind](path)
    except Exception as error:  # the libraries raise bare Exception, RuntimeError and more
        reason = f"not a {config.kind} vocabulary ({error})"
        raise ModelError(path, reason, "copy it again from the model's source") from None
    return Tokenizer(config, encode, _load_lexicon(config, path.parent))


def _load_lexicon(config: TokenizerConfig, directory: Path) -> Lexicon | None:
    """Read the names of a configuration. Raises `ModelError` if they cannot be read."""
    if config.lexicon is None:
        return None
    path = directory / config.lexicon.file
    try:
        return read_lexicon(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            path, f"cannot be read ({error})", "copy it again from the model's source"
        ) from None


# --- vocabularies --------------------------------------------------------------------------------


def _word_pieces(path: Path) -> Callable[[str], list[int]]:
    """Read BERT's uncased word pieces, one on each line of `vocab.txt`."""
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
    tokenizer.encode_special_tokens = True  # special tokens in a text are plain text
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


# --- cleaning ------------------------------------------------------------------------------------

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _openai(text: str) -> str:
    """Clean as OpenAI's CLIP: repair, collapse white space, lower-case.

    Printable ASCII without an ampersand needs no repair: ftfy changes escapes, control characters,
    entities, and characters beyond ASCII.
    """
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = repair(text)
    return " ".join(text.split()).lower()


def _whitespace(text: str) -> str:
    """Clean as open_clip before a tokenizer of transformers: repair, collapse white space."""
    return " ".join(repair(text).split())


def repair(text: str) -> str:
    """Repair wrong encodings and typographic characters by ftfy; undo HTML entities twice."""
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _huggingface(text: str) -> str:
    """Clean as transformers' CLIP: NFC, collapse white space, lower-case each letter by itself.

    Rust lower-cases without context, so a final sigma stays a sigma.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split()).lower()
    text = unicodedata.normalize("NFC", _without_surrogates(text))
    text = re.sub(r"[^\S\x1c-\x1f]+", " ", text)
    return "".join(character.lower() for character in text.strip(" "))


def _canonicalize(text: str) -> str:
    """Clean as open_clip's SigLIP: repair, no underscores or ASCII punctuation, lower-case.

    An underscore becomes a space.
    """
    text = repair(text).replace("_", " ").translate(_NO_PUNCTUATION).lower()
    return " ".join(text.split())


def _lower_no_punctuation(text: str) -> str:
    """Clean as transformers' SigLIP: lower-case, no ASCII punctuation (underscores vanish)."""
    return " ".join(_without_surrogates(text).lower().translate(_NO_PUNCTUATION).split())


def _lower(text: str) -> str:
    return _without_surrogates(text).lower()


def _without_surrogates(text: str) -> str:
    """Replace unpaired surrogates, which no encoding can represent, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


CLEANERS: dict[Cleaning, Callable[[str], str]] = {
    "openai": _openai,
    "whitespace": _whitespace,
    "huggingface": _huggingface,
    "canonicalize": _canonicalize,
    "lower_no_punctuation": _lower_no_punctuation,
    "lower": _lower,
    "none": _without_surrogates,
}
