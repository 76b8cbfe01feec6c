"""Ids equal those of OpenAI, transformers and open_clip."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ModelError
from twotower.inputs import byte_pairs
from twotower.inputs.byte_pairs import ASCII_WORDS, clip_vocabulary, unicode_words
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP_TOKENIZER,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    repair,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer" / "openai.json"
HUGGINGFACE_TOKENIZER = replace(OPENAI_TOKENIZER, cleaning="huggingface", pad_id=49407)
openai = load_tokenizer(OPENAI_TOKENIZER)
huggingface = load_tokenizer(HUGGINGFACE_TOKENIZER)

# (text, OpenAI's ids, transformers' ids where they differ), from the correctness sheet
EXPECTED = [
    ("a photo of a cat.", [320, 1125, 539, 320, 2368, 269], None),
    ("You should've done this", [592, 1535, 1200, 1700, 589], None),
    ("DON'T", [847, 713], None),
    ("a &amp;amp; b", [320, 261, 321], [320, 261, 6259, 282, 6259, 282, 321]),
    ("“curly”", [257, 20795, 257], [728, 506, 20795, 728, 507]),
    ("it’s", [585, 568], [585, 728, 503, 338]),
    ("schÃ¶n", [844, 7255, 333], [844, 127, 352, 126, 370, 333]),
    ("ﬁne", [3797], [171, 105, 223, 1422]),
    ("ΟΔΟΣ", [138, 123, 138, 112, 138, 123, 139, 480], [138, 123, 138, 112, 138, 123, 139, 481]),
    ("résumé", [29106, 7054, 4166], None),
    ("İstanbul", [328, 16384, 11231], None),
    ("2024", [273, 271, 273, 275], None),
    ("a_b", [320, 318, 321], None),
    ("\U0001f600", [7334], None),
    ("a\u200bb", [320, 9844, 321], None),
    ("a\0b", [3937], [320, 444, 321]),
    ("<end_of_text>", [283, 806, 318, 539, 318, 4160, 285], None),
    ("", [], None),
    ("   ", [], None),
]


def test_ids_equal_openai_on_awkward_strings() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) >= 200
    differing = {
        text: openai.encode(text) for text, ids in golden.items() if openai.encode(text) != ids
    }
    assert not differing


@pytest.mark.parametrize(("text", "theirs", "transformers_ids"), EXPECTED)
def test_known_ids(text: str, theirs: list[int], transformers_ids: list[int] | None) -> None:
    assert openai.encode(text) == theirs
    assert huggingface.encode(text) == (theirs if transformers_ids is None else transformers_ids)


def test_ids_equal_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    for text in json.loads(GOLDEN.read_text()):
        assert huggingface.encode(text) == theirs(text, add_special_tokens=False).input_ids, text


def test_the_vocabulary_is_openais() -> None:
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == 49408 and len(merges) == 48894
    assert merges[0] == ("i", "n") and vocabulary["<|endoftext|>"] == 49407
    assert vocabulary["cat</w>"] == 2368 and vocabulary["!"] == 0


def test_a_batch_is_framed_cut_and_padded() -> None:
    tokens = openai(["a cat", "cat " * 100, ""])
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (3, 77)
    assert tokens.input_ids[0, :5].tolist() == [49406, 320, 2368, 49407, 0]
    assert tokens.input_ids[1, 0] == 49406 and tokens.input_ids[1, -1] == 49407
    assert tokens.input_ids[2, :3].tolist() == [49406, 49407, 0]
    assert tokens.attention_mask.sum(axis=1).tolist() == [4, 77, 2]
    assert tokens.truncated.tolist() == [False, True, False]
    assert not openai(["cat " * 75]).truncated[0] and openai(["cat " * 76]).truncated[0]
    assert huggingface("a cat").input_ids[0, 4] == 49407


def test_special_tokens_only_where_they_are_asked_for() -> None:
    text = "a cat <|endoftext|> dog"
    assert 49407 not in openai.encode(text)
    assert openai(text, parse_special=True).input_ids[0, 3] == 49407
    open_clip = load_tokenizer(replace(OPENAI_TOKENIZER, special_tokens={"<end_of_text>": 49407}))
    assert open_clip.encode_special("<end_of_text>") == [49407]
    assert open_clip.encode_special("<|endoftext|>") == openai.encode("<|endoftext|>")


ANY_TEXT = st.text(st.characters(), max_size=40)  # lone surrogates included


@settings(deadline=None, max_examples=300)
@given(st.lists(ANY_TEXT | st.sampled_from(["<|endoftext|>", "<|startoftext|>"]), max_size=4))
@pytest.mark.parametrize("tokenizer", [openai, huggingface])
def test_any_text_gives_a_row(tokenizer: Tokenizer, texts: list[str]) -> None:
    tokens = tokenizer(texts)
    for row, text in enumerate(texts):
        body = tokenizer.encode(text)
        assert all(0 <= token < 49406 for token in body)
        alone = tokenizer(text)
        np.testing.assert_array_equal(tokens.input_ids[row], alone.input_ids[0])
        assert tokens.attention_mask[row].sum() == min(77, len(body) + 2)


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_repairing_leaves_plain_ascii_alone(text: str) -> None:
    """ASCII may skip the repair: ftfy and unescape change nothing in it."""
    if "&" not in text:
        assert repair(text) == text


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_all_patterns_split_ascii_alike(text: str) -> None:
    text = text.lower()
    for openai in (True, False):
        assert unicode_words(openai).findall(text) == ASCII_WORDS.findall(text)


def test_the_cache_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_pairs, "WORD_CACHE_SIZE", 2)
    words = ["alpha", "beta", "gamma", "delta", "alpha"]
    separate = [token for word in words for token in openai.encode(word)]
    assert openai.encode(" ".join(words)) == separate


def test_word_pieces_equal_berts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import BertTokenizer

    pieces = "[PAD] [UNK] [CLS] [SEP] a photo of the cat ##s dog run ##ning , . ! ' cafe 猫 [ ] sep"
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces.split()) + "\n", encoding="utf-8")
    config = TokenizerConfig("wordpiece", 16, "none", 0, 2, 3, {}, "vocab.txt")
    ours, theirs = load_tokenizer(config, tmp_path), BertTokenizer(str(path))
    texts = ["A photo of the CATS, running!", "café 猫猫 unknown dogs'", "", "a" * 120, "cat " * 40]
    for text in texts:
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids, text
        padded = theirs(text, padding="max_length", truncation=True, max_length=16)
        tokens = ours(text)
        assert tokens.input_ids[0].tolist() == padded.input_ids
        assert tokens.attention_mask[0].tolist() == padded.attention_mask
    assert 3 not in ours.encode("[SEP]")


def test_sentence_pieces_equal_siglips(sentence_pieces: Path) -> None:
    pytest.importorskip("transformers")
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer

    config = replace(SIGLIP_TOKENIZER, cleaning="lower_no_punctuation")
    ours = load_tokenizer(config, sentence_pieces)
    theirs = SiglipTokenizer(str(sentence_pieces / "spiece.model"), pad_token="</s>")
    for text in ("A photo of a cat.", "snake_case, don't!", "two  dogs", "résumé"):
        padded = theirs(text, padding="max_length", truncation=True, max_length=64)
        assert ours(text).input_ids[0].tolist() == padded["input_ids"], text


def test_siglip_keeps_its_end_when_cut(sentence_pieces: Path) -> None:
    ours = load_tokenizer(SIGLIP_TOKENIZER, sentence_pieces)
    tokens = ours(["cat " * 200, "a cat"])
    assert tokens.input_ids[0, -1] == 1 and tokens.truncated.tolist() == [True, False]
    assert tokens.input_ids[1, -1] == 1  # padded with the end of text


def test_open_clips_and_transformers_siglip_clean_differently(sentence_pieces: Path) -> None:
    open_clip = load_tokenizer(SIGLIP_TOKENIZER, sentence_pieces)
    transformers = load_tokenizer(
        replace(SIGLIP_TOKENIZER, cleaning="lower_no_punctuation"), sentence_pieces
    )
    assert open_clip.encode("snake_case") == open_clip.encode("snake case")
    assert transformers.encode("snake_case") == transformers.encode("snakecase")
    assert open_clip.encode("A dog!") == transformers.encode("a dog")


def test_a_tokenizer_json_is_read_and_its_specials_stay_text(tmp_path: Path) -> None:
    import tokenizers

    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<eos>": 0, "a": 1, "cat": 2, "?": 3}, "?")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<eos>"])
    made.enable_truncation(2)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    config = TokenizerConfig("tokenizers", 8, "lower", 0, None, 0, {}, "tokenizer.json")
    ours = load_tokenizer(config, tmp_path)
    assert ours.encode("a CAT a") == [1, 2, 1]
    assert 0 not in ours.encode("a <eos>")
    assert ours("a cat").input_ids[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "tokenizers"])
def test_missing_and_broken_vocabularies(kind: str, tmp_path: Path) -> None:
    config = TokenizerConfig(kind, 16, "none", 0, None, 1, {}, "vocabulary")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="vocabulary: no such file"):
        load_tokenizer(config, tmp_path)
    (tmp_path / "vocabulary").write_bytes(b"\xff\xfe\x00 not one")
    with pytest.raises(ModelError, match=f"not a {kind} vocabulary"):
        load_tokenizer(config, tmp_path)
    with pytest.raises(ModelError, match="name a file"):
        load_tokenizer(replace(config, file=None), tmp_path)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="cleaning is 'ftfy'"):
        replace(OPENAI_TOKENIZER, cleaning="ftfy")  # type: ignore[arg-type]
