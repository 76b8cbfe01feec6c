"""Directories of small models, made once for all tests.

Tests of rooms that need no torch run without it; those that need such a directory are then skipped.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from twotower.encode.registry import DEFAULT_MODEL, QUICK_MODEL

USERS_OF_DEFAULT = ("twotower.encode.load", "twotower.index.index")


@pytest.fixture(scope="session", autouse=True)
def quick_default() -> Iterator[None]:
    """Make the quick bundled model the default one, which takes a fifth of the time.

    Commands in processes of their own use the default, and tests marked `default_model`.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in USERS_OF_DEFAULT:
            patch.setattr(f"{module}.DEFAULT_MODEL", QUICK_MODEL)
        yield


@pytest.fixture(autouse=True)
def true_default(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the default model for tests marked `default_model`."""
    if request.node.get_closest_marker("default_model"):
        for module in USERS_OF_DEFAULT:
            monkeypatch.setattr(f"{module}.DEFAULT_MODEL", DEFAULT_MODEL)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of `tiny_config`."""
    pytest.importorskip("torch")
    from tests.tiny_models import random_tensors, tiny_config
    from twotower.encode.convert import write_directory

    directory = tmp_path_factory.mktemp("models") / "tiny"
    config = tiny_config()
    write_directory(config, random_tensors(config), (), directory)
    return directory


@pytest.fixture(scope="session")
def sentence_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentencepiece model with SigLIP's special ids: pad and end are 1, unknown is 2."""
    import sentencepiece

    directory = tmp_path_factory.mktemp("pieces")
    golden = Path(__file__).parent / "golden" / "tokenizer" / "openai.json"
    corpus = [text for text in json.loads(golden.read_text()) if text.isprintable() and text] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(directory / "spiece"),
        vocab_size=400,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return directory


@pytest.fixture(scope="session")
def siglip_directory(sentence_pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of `siglip_config`, with its vocabulary."""
    pytest.importorskip("torch")
    from tests.tiny_models import random_tensors, siglip_config
    from twotower.encode.convert import write_directory

    directory = tmp_path_factory.mktemp("models") / "tiny-siglip"
    config = siglip_config()
    write_directory(config, random_tensors(config), [sentence_pieces / "spiece.model"], directory)
    return directory
