"""Names of a lexicon in texts, and their ids after the tokens of a text."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import ModelError
from twotower.inputs.lexicon import Lexicon, split_words
from twotower.inputs.tokenizer import LexiconConfig, TokenizerConfig, load_tokenizer

NAMES = ["cafe", "dog", "hot dog", "hot dog stand", "fireman", "leaf", "glass", "pony", "dress"]
lexicon = Lexicon(NAMES)
FIRST_ID = 30
CONFIG = TokenizerConfig("wordpiece", 8, "none", 0, 2, 3, {}, "vocab.txt")
WITH_LEXICON = replace(CONFIG, lexicon=LexiconConfig("lexicon.txt", FIRST_ID, limit=2))


def names_in(text: str) -> list[str]:
    return [NAMES[row] for row in lexicon.find(text)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a dog", ["dog"]),
        ("Hot-dog STAND", ["hot dog stand"]),
        ("hot_dogs, two dogs!", ["hot dog", "dog"]),
        ("a dog's hot dog", ["dog", "hot dog"]),
        ("firemen and leaves", ["fireman", "leaf"]),
        ("ponies at the café", ["pony", "cafe"]),
        ("a glass and glasses", ["glass"]),
        ("dogs stand, hot", ["dog"]),
        ("", []),
        ("ein Foto von Äpfeln \U0001f34e", []),
    ],
)
def test_the_longest_name_is_taken_and_plurals_are_known(text: str, names: list[str]) -> None:
    assert names_in(text) == names


@given(st.text())
def test_any_text_can_be_searched(text: str) -> None:
    rows = lexicon.find(text)
    assert len(rows) == len(set(rows)) <= len(split_words(text))


@given(st.lists(st.sampled_from(NAMES), max_size=6))
def test_every_name_is_found_once_in_the_order_of_the_text(names: list[str]) -> None:
    assert names_in(" and a ".join(names)) == list(dict.fromkeys(names))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lexicon")
    (path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ndog\nglass\nhot\n")
    (path / "lexicon.txt").write_text("\n".join(NAMES) + "\n")
    return path


def test_names_follow_the_end_of_the_text(folder: Path) -> None:
    tokens = load_tokenizer(WITH_LEXICON, folder)(["a dog", "a hot dog glass", "a"])
    assert tokens.input_ids.tolist() == [
        [2, 4, 5, 3, FIRST_ID + 1, 0, 0, 0, 0, 0],
        [2, 4, 7, 5, 6, 3, FIRST_ID + 2, FIRST_ID + 6, 0, 0],
        [2, 4, 3, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert tokens.lengths.tolist() == [5, 8, 3]
    assert tokens.attention_mask.sum(axis=1).tolist() == [4, 6, 3]


@given(st.lists(st.sampled_from(["a", "hot", "dog", "dogs", "glass", "pony"]), max_size=12))
def test_a_lexicon_changes_no_token(folder: Path, words: list[str]) -> None:
    texts = [" ".join(words), "a"]
    before, after = (load_tokenizer(config, folder)(texts) for config in (CONFIG, WITH_LEXICON))
    assert np.array_equal(after.attention_mask[:, :8], before.attention_mask)
    assert not after.attention_mask[:, 8:].any()
    ids = np.where(after.input_ids < FIRST_ID, after.input_ids, 0)
    assert np.array_equal(ids[:, :8], before.input_ids) and not ids[:, 8:].any()
    assert np.array_equal(after.truncated, before.truncated)
    name_counts = (after.input_ids >= FIRST_ID).sum(axis=1)
    assert np.array_equal(after.lengths, before.lengths + name_counts) and name_counts.max() <= 2


def test_a_missing_lexicon_is_reported(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "vocab.txt", tmp_path)
    with pytest.raises(ModelError, match=r"lexicon.txt: cannot be read"):
        load_tokenizer(WITH_LEXICON, tmp_path)
