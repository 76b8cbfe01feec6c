"""Runs that are resumed and extended from the command line."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_models import tiny_config
from tests.train.test_batches import Numbers
from twotower.cli.main import main
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig
from twotower.pairs.shards import pack
from twotower.train.config import TrainConfig


def small_config() -> CLIPConfig:
    vision = ViTConfig(64, 32, 16, 1, 2, 16, "quick_gelu")
    text = TextTransformerConfig(77, 49408, 8, 1, 1, 8, "quick_gelu")
    return replace(tiny_config(), embed_dim=16, vision=vision, text=text)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pairs, other pairs, an architecture and a run of 4 steps."""
    folder = tmp_path_factory.mktemp("resume")
    pack(Numbers(24, broken=frozenset()), folder / "pairs")
    pack(Numbers(40, broken=frozenset()), folder / "more")
    (folder / "model.json").write_text(small_config().to_json())
    settings = ["optimizer.lr=1e-3", "data.workers=0", "output.log_every=1", "output.save_every=2"]
    settings += ["optimizer.schedule=constant", "output.keep=100"]
    options = ["--model", str(folder / "model.json"), "--batch-size", "6", "--steps", "4"]
    assert pretrain(folder, "run", str(folder / "pairs"), *options, settings=settings) == 0
    return folder


def pretrain(work: Path, run: str, *options: str, settings: Sequence[str] = ()) -> int:
    changes = [text for setting in settings for text in ("--set", setting)]
    return main(["train", "pretrain", *options, "--run", str(work / run), *changes])


def copy_run(work: Path, name: str) -> Path:
    shutil.copytree(work / "run", work / name)
    return work / name


def config_of(run: Path) -> TrainConfig:
    return TrainConfig.from_json((run / "config.json").read_text(), run)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same_weights(run: Path, expected: Path) -> bool:
    ours, theirs = weights_of(run), weights_of(expected)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").open()]


def test_a_finished_run_is_extended(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its model is that of all steps, as if these had been asked for at the start."""
    run = copy_run(work, "extended")
    assert pretrain(work, "extended", "--resume", "latest", "--steps", "8") == 0
    assert "resumes with steps=8 (was 4)" in capsys.readouterr().err
    assert steps_of(run) == list(range(8))
    assert config_of(run).steps == 8
    assert config_of(run) == replace(config_of(work / "run"), steps=8)
    assert not same_weights(run, work / "run")
    options = ["--model", str(work / "model.json"), "--batch-size", "6", "--steps", "8"]
    settings = ["optimizer.lr=1e-3", "data.workers=0", "output.log_every=1"]
    settings += ["optimizer.schedule=constant", "optimizer.warmup_steps=0"]
    assert pretrain(work, "whole", str(work / "pairs"), *options, settings=settings) == 0
    assert same_weights(run, work / "whole")


def test_resume_latest_alone_is_enough(work: Path) -> None:
    """A run that was killed after its second step ends with the same weights."""
    run = copy_run(work, "alone")
    shutil.rmtree(run / "checkpoints" / "000000004")
    shutil.rmtree(run / "model")
    assert pretrain(work, "alone", "--resume", "latest") == 0
    assert same_weights(run, work / "run") and config_of(run) == config_of(work / "run")
    options = ["--model", str(work / "model.json"), "--resume", "latest"]  # the same, repeated
    assert pretrain(work, "alone", str(work / "pairs"), *options, "--batch-size", "6") == 0
    assert config_of(run) == config_of(work / "run")


@pytest.mark.parametrize("change", ["batch", "pairs"])
def test_another_batch_size_or_other_pairs_are_recorded(
    work: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their order begins anew, and the run resumes to the bit afterwards."""
    name = f"other-{change}"
    run = copy_run(work, name)
    options = ["--batch-size", "10"] if change == "batch" else [str(work / "more")]
    assert pretrain(work, name, *options, "--resume", "latest", "--steps", "8") == 0
    message = "data.batch_size=10 (was 6)" if change == "batch" else "data.sources="
    assert message in capsys.readouterr().err
    config = config_of(run)
    assert config.data.first_step == 4
    assert config.data.batch_size == (10 if change == "batch" else 6)
    assert config.data.sources == (str(work / ("pairs" if change == "batch" else "more")),)
    state = json.loads((run / "checkpoints" / "000000008" / "state.json").read_text())
    assert state["config"] == json.loads(config.to_json())
    middle = run / "checkpoints" / "000000006"
    whole = weights_of(run)
    assert pretrain(work, name, "--resume", str(middle)) == 0
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights_of(run).items())


def test_an_earlier_checkpoint_brings_its_configuration(work: Path) -> None:
    run = copy_run(work, "earlier")
    assert pretrain(work, "earlier", "--resume", "latest", "--steps", "6", "--batch-size", "8") == 0
    middle = run / "checkpoints" / "000000002"
    assert pretrain(work, "earlier", "--resume", str(middle)) == 0
    assert same_weights(run, work / "run") and config_of(run) == config_of(work / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "ViT-B-32"], "trains another model, tiny; leave --model out"),
        (["--set", "optimizer.name=muon"], "was made with optimizer.name=adamw, not muon"),
        (["--steps", "2"], "has done 4 steps, more than the 2 of this run"),
        (["--set", "model.vision.width=32"], "was made with another model"),
    ],
)
def test_changes_that_a_run_refuses(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """A dry run refuses them, too, and nothing is changed."""
    before = (work / "run" / "config.json").read_text()
    for dry in ([], ["--dry-run"]):
        assert pretrain(work, "run", "--resume", "latest", *options, *dry) == 1
        assert message in capsys.readouterr().err
    assert (work / "run" / "config.json").read_text() == before


def test_a_dry_run_of_a_resumption(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(work, "run", "--resume", "latest", "--steps", "9", "--dry-run") == 0
    assert "in all      9 steps" in capsys.readouterr().out
    assert config_of(work / "run").steps == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume", "latest"], "holds no complete checkpoint"),
        ([], "train: no pairs; name them, or resume a run"),
        (["PAIRS", "--batch-size", "1"], "a batch of 1 has nothing to contrast"),
        (["PAIRS", "--batch-size", "64"], "24 pairs are fewer than a batch of 64"),
        (["PAIRS", "--batch-size", "6", "--set", "data.first_step=2"], "begins at step 0"),
        (["PAIRS", "--batch-size", "6", "--set", "validation.retrieval=nowhere"], "nowhere"),
        (["PAIRS", "--batch-size", "6", "--set", "data.flip=2"], "data.flip: 2.0 is not from 0"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    options = [str(work / "pairs") if option == "PAIRS" else option for option in options]
    model = [] if "--resume" in options else ["--model", str(work / "model.json")]
    for dry in ([], ["--dry-run"]):
        assert pretrain(work, "fresh", *options, *model, *dry) == 1
        assert message in capsys.readouterr().err
    assert not (work / "fresh").exists()


def test_epochs(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(work / "model.json"), "--batch-size", "6", "--epochs", "3"]
    assert pretrain(work, "fresh", str(work / "pairs"), *options, "--dry-run") == 0
    assert "in all      12 steps" in capsys.readouterr().out
    assert pretrain(work, "run", "--resume", "latest", "--epochs", "2", "--dry-run") == 0
    assert "in all      8 steps" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_is_resumed(work: Path) -> None:
    """Fields that its files lack have the values that change nothing."""
    run = copy_run(work, "old")
    shutil.rmtree(run / "checkpoints" / "000000004")
    for path in (run / "config.json", run / "checkpoints" / "000000002" / "state.json"):
        tree = json.loads(path.read_text())
        fields = tree.get("config", tree)
        for group, names in (
            ("data", ("first_step", "crop_scale", "crop_ratio", "flip", "color")),
            ("optimizer", ("vision_lr", "text_lr")),
            ("loss", ("initial_scale", "initial_bias", "max_scale")),
        ):
            for name in names:
                del fields[group][name]
        path.write_text(json.dumps(tree))
    assert pretrain(work, "old", "--resume", "latest") == 0
    assert same_weights(run, work / "run")


def test_a_change_survives_a_kill_before_the_next_checkpoint(work: Path) -> None:
    run = copy_run(work, "killed")
    options = ["--resume", "latest", "--steps", "8", "--batch-size", "10"]
    assert pretrain(work, "killed", *options) == 0
    whole = weights_of(run)
    for step in (6, 8):
        shutil.rmtree(run / "checkpoints" / f"{step:09d}")
    assert pretrain(work, "killed", "--resume", "latest") == 0
    assert config_of(run).data.batch_size == 10
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights_of(run).items())


def test_a_folder_that_has_grown_must_be_named(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = work / "growing"
    shutil.copytree(work / "pairs", pairs)
    options = ["--model", str(work / "model.json"), "--batch-size", "6", "--steps", "2"]
    settings = ["data.workers=0"]
    assert pretrain(work, "grown", str(pairs), *options, settings=settings) == 0
    shutil.rmtree(pairs)
    shutil.copytree(work / "more", pairs)
    resume = ["--resume", "latest", "--steps", "4"]
    assert pretrain(work, "grown", *resume) == 1
    assert "24 pairs, and the sources now have 40" in capsys.readouterr().err
    assert pretrain(work, "grown", str(pairs), *resume) == 0
    assert config_of(work / "grown").data.first_step == 2


def test_distillation_resumes_with_its_teacher(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(work / "cache"))
    run, pairs = work / "distilled", str(work / "pairs")
    command = ["train", "distill", "--run", str(run)]
    options = ["--model", str(work / "model.json"), "--batch-size", "6", "--steps", "2"]
    assert main([*command, pairs, *options]) == 1
    assert "name a model with --teacher" in capsys.readouterr().err
    teacher = str(work / "run" / "model")
    options += ["--teacher", teacher, "--set", "data.workers=0"]
    assert main([*command, pairs, *options]) == 0
    assert main([*command, "--resume", "latest", "--steps", "3"]) == 0
    assert config_of(run).loss.teacher == teacher and config_of(run).steps == 3
