"""Small `tokenizer.json` files with the special tokens of published ones."""

from pathlib import Path

import tokenizers

from twotower.model.foreign.hub_tokenizer import SpecialTokens

WORDS = "a photo of cat the two dogs playing red car ein foto and in on an".split()


def write_vocabulary(tokens: SpecialTokens, directory: Path) -> None:
    """Write a vocabulary of a few words, which begins as XLM-V's: <s>, <pad>, </s>, <unk>."""
    begin = [tokens.begin] if tokens.begin else []
    special = [*begin, tokens.padding, tokens.end, "<unk>"]
    model = tokenizers.models.WordLevel(
        {word: row for row, word in enumerate([*special, *WORDS])}, unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))
