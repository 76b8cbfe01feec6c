"""Small `tokenizer.json` files with the special tokens of published ones."""

from pathlib import Path

import tokenizers

from twotower.model.foreign.hub_tokenizer import BERT, SpecialTokens

WORDS = "a photo of cat the two dogs playing red car ein foto and in on an".split()


def write_vocabulary(tokens: SpecialTokens, directory: Path) -> None:
    """Write a vocabulary of a few words; padding is 0 of BERT and T5, else 1, as published."""
    special = [tokens.padding, tokens.end, "<unk>"]
    if tokens.begin is not None:
        special.insert(1 if tokens is BERT else 0, tokens.begin)
    model = tokenizers.models.WordLevel(
        {word: row for row, word in enumerate([*special, *WORDS])}, unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))
