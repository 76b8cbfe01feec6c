"""A small model whose weights are those of a fresh one, which engines may round."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fresh_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of `tiny_config` with fresh weights."""
    torch = pytest.importorskip("torch")
    from tests.tiny_models import tiny_config
    from twotower.encode.convert import write_directory
    from twotower.model.clip import CLIP

    directory = tmp_path_factory.mktemp("models") / "fresh"
    config = tiny_config("fresh")
    torch.manual_seed(0)
    write_directory(config, CLIP(config).state_dict(), (), directory)
    return directory
