"""Named configurations, and the plan that the command prints."""

from pathlib import Path

import pytest

from tests.train.test_batches import Numbers
from twotower.cli.main import main
from twotower.errors import ModelError
from twotower.pairs.shards import pack
from twotower.train.recipes import emoji, pretrain


@pytest.fixture
def shards(tmp_path: Path) -> str:
    pack(Numbers(50), tmp_path / "shards")
    return str(tmp_path / "shards")


def test_pretraining_follows_the_paper(shards: str, tiny_directory: Path) -> None:
    config = pretrain([shards, shards], "ViT-B-32", batch_size=10)
    assert (config.steps, config.optimizer.warmup_steps) == (32 * 10, 32)
    assert (config.optimizer.betas, config.optimizer.eps, config.optimizer.weight_decay) == (
        (0.9, 0.98),
        1e-6,
        0.2,
    )
    assert pretrain([shards], "ViT-B-32", steps=90_000).optimizer.warmup_steps == 2000
    resnet = pretrain([shards], "RN50", batch_size=10)
    assert (resnet.optimizer.betas, resnet.optimizer.eps) == ((0.9, 0.999), 1e-8)
    further = pretrain([shards], str(tiny_directory), batch_size=10, settings=["optimizer.lr=1e-5"])
    assert further.start_from == str(tiny_directory) and further.model.name == "tiny"
    assert further.optimizer.lr == 1e-5
    with pytest.raises(ModelError, match="did you mean 'ViT-B-32'"):
        pretrain([shards], "ViT-B32", batch_size=10)


def test_a_dry_run_prints_the_plan(
    shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "pretrain", shards, "--run", str(tmp_path / "run"), "--batch-size", "10"]
    assert main([*command, "--dry-run", "--set", "optimizer.lr=1e-4"]) == 0
    output = capsys.readouterr().out
    assert '"lr": 0.0001' in output and '"batch_size": 10' in output
    for line in ("parameters  87,849,216 vision", "memory      2.42 GB", "arithmetic", "TFLOP"):
        assert line in output
    assert not (tmp_path / "run").exists()
    assert main([*command, "--set", "data.batch_size=1", "--dry-run"]) == 1
    assert "a batch of 1 has nothing to contrast" in capsys.readouterr().err
    assert main([*command, "--set", "data.batch_size=10000", "--dry-run"]) == 1
    assert "pairs are fewer than a batch of 10000" in capsys.readouterr().err
    assert main([*command, "--set", "learning_rat=1"]) == 1
    assert "did you mean 'optimizer.lr'" in capsys.readouterr().err


def test_the_emoji_run_is_tested_on_other_drawings() -> None:
    config = emoji()
    held_out = {config.validation.zero_shot, config.validation.retrieval}
    assert not held_out & set(config.data.sources)
