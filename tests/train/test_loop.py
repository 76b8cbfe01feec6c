"""Runs: learning, the log, checkpoints, kills at any step, settings and faults."""

import colorsys
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.tiny_models import tiny_config
from tests.train.test_batches import Numbers
from twotower.encode.load import load
from twotower.errors import ModelError, TrainError, TwotowerError
from twotower.model.clip import CLIP
from twotower.pairs.shards import pack
from twotower.train.checkpoint import load_checkpoint, newest_checkpoint
from twotower.train.config import (
    DataConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    with_settings,
    with_values,
)
from twotower.train.loop import Trainer, run_steps, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "shards"
    pack(Numbers(48, broken=frozenset()), folder, pairs_per_shard=20)
    return folder


def config_of(shards: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(
        model=tiny_config(),
        data=DataConfig((str(shards),), batch_size=8),
        steps=12,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=2),
        output=OutputConfig(log_every=1, save_every=2, keep=100),
    )
    return with_values(config, changes)


def losses(run: Path) -> list[tuple[int, float, list[str]]]:
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["keys"]) for line in lines]


def assert_same_weights(directory: Path, expected: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (directory, expected))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def colours(folder: Path) -> Path:
    """Write twelve plain colours, each with its number as caption."""
    for number in range(12):
        colour = tuple(int(255 * channel) for channel in colorsys.hsv_to_rgb(number / 12, 1, 1))
        PIL.Image.new("RGB", (80, 70), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"colour {number}")
    return folder


def test_a_run_learns_and_writes_a_model(tmp_path: Path) -> None:
    config = config_of(
        colours(tmp_path), steps=60, **{"data.batch_size": 12, "output.save_every": 100}
    )
    rows: list[dict[str, object]] = []
    directory = train(config, tmp_path / "run", report=rows.append)
    loss_before, loss_after = rows[0]["loss"], rows[-1]["loss"]
    assert loss_before == pytest.approx(math.log(12), abs=0.8)  # chance level
    assert loss_after < loss_before / 2
    model = load(directory)
    assert model.verify() > 0.9999
    assert [line["step"] for line in rows] == list(range(60))
    assert 0 <= rows[-1]["waited_for_data"] <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer.name": "muon", "optimizer.ema": 0.9, "optimizer.schedule": "wsd"},
        {
            "memory.patch_dropout": 0.5,
            "memory.chunk_size": 3,
            "memory.unmasked_steps": 4,
            "memory.checkpointing": True,
        },
        {
            "optimizer.locked": ("vision",),
            "optimizer.layer_decay": 0.8,
            "loss.multi_positive": True,
        },
        {"memory.precision": "bfloat16"},
        {
            "data.crop_scale": (0.3, 1.0),
            "data.flip": 0.5,
            "data.color": 0.4,
            "optimizer.schedule": "rsqrt",
            "optimizer.vision_lr": 1e-4,
            "optimizer.text_lr": 2e-3,
            "loss.initial_scale": 10.0,
            "loss.initial_bias": -10.0,
            "loss.max_scale": 20.0,
            "model.logit_bias": True,
        },
        {
            "optimizer.lora": 4,
            "optimizer.frozen_statistics": True,
            "memory.precision": "float16",
        },
    ],
    ids=["plain", "muon", "masked", "locked", "bfloat16", "researcher", "lora"],
)
def test_resuming_changes_nothing(shards: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    config = config_of(shards, steps=8, **changes)
    whole = run_steps(config, tmp_path / "whole").weights()
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for step in (2, 6):  # with another number of workers
        path = tmp_path / "parts" / "checkpoints" / f"{step:09d}"
        resumed = run_steps(
            with_values(config, {"data.workers": step // 3}), tmp_path / "parts", path
        ).weights()
        assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    final = "checkpoints/000000008"
    ours, theirs = (
        load_file(tmp_path / p / final / "optimizer.safetensors") for p in ("whole", "parts")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


SCRIPT = """
import sys
from pathlib import Path
from twotower.train.config import TrainConfig
from twotower.train.loop import train
run = Path(sys.argv[1])
config = TrainConfig.from_json(Path(sys.argv[2]).read_text(), "config")
train(config, run, resume="latest" if len(sys.argv) > 3 else None)
"""


def test_kill_9_at_any_step(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, steps=40)
    (tmp_path / "config.json").write_text(config.to_json())

    def start(run: str, *resume: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, tmp_path / run, tmp_path / "config.json", *resume]
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT)

    whole = start("whole")
    chance = random.Random(time.time_ns())
    killed = 0
    process = start("killed")
    goal = chance.randint(3, 12)
    while process.poll() is None:
        log = tmp_path / "killed" / "log.jsonl"
        done = len(log.read_text().splitlines()) if log.exists() else 0
        if killed < 3 and done >= goal:
            time.sleep(
                chance.random() * 0.1
            )  # anywhere in a step, or while a checkpoint is written
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            goal = min(38, done + chance.randint(2, 10))
            process = start("killed", "latest")
        time.sleep(0.005)
    assert killed >= 1 and process.returncode == 0 and whole.wait() == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "killed" / "model", tmp_path / "whole" / "model")


def begin(config: TrainConfig, tmp_path: Path) -> Trainer:
    trainer = Trainer(config, tmp_path / "run")
    trainer.begin()
    return trainer


def test_locked_towers_do_not_learn(shards: Path, tmp_path: Path) -> None:
    trainer = begin(config_of(shards, **{"optimizer.locked": ("vision",)}), tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    for batch in trainer.batches(0, 2):
        trainer.step(batch)
    after = trainer.model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.startswith(("text.", "logit_scale")) for name in changed)


def test_only_low_rank_updates_learn(shards: Path, tmp_path: Path) -> None:
    trainer = begin(config_of(shards, **{"optimizer.lora": 4}), tmp_path)
    learning = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert learning and all(name.endswith((".up", ".down", "logit_scale")) for name in learning)
    directory = train(config_of(shards, steps=2, **{"optimizer.lora": 4}), tmp_path / "again")
    assert load(directory).verify() > 0.9999  # merged, and read as any other


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_scale_is_clamped_except_for_siglip(
    shards: Path, tmp_path: Path, sigmoid: bool
) -> None:
    model = replace(tiny_config(), logit_bias=sigmoid)
    trainer = begin(config_of(shards, model=model), tmp_path)
    with torch.no_grad():
        trainer.model.logit_scale.fill_(5.0)
    trainer.step(next(iter(trainer.batches(0, 1))))
    scale = trainer.model.logit_scale.item()
    assert scale > 4.9 if sigmoid else scale == pytest.approx(math.log(100))


def test_patches_are_dropped_until_the_last_steps(shards: Path, tmp_path: Path) -> None:
    trainer = begin(
        config_of(shards, steps=4, **{"memory.patch_dropout": 0.5, "memory.unmasked_steps": 1}),
        tmp_path,
    )
    shares = []
    for batch in trainer.batches(0, 4):
        trainer.step(batch)
        shares.append(trainer.model.vision.patch_dropout)
    assert shares == [0.5, 0.5, 0.5, 0.0]


def test_the_average_of_weights(shards: Path, tmp_path: Path) -> None:
    """After two steps: .9 * (.9 * start + .1 * first) + .1 * second."""
    trainer = begin(config_of(shards, **{"optimizer.ema": 0.9}), tmp_path)
    weights = [trainer.model.text.proj.weight.detach().clone()]
    for batch in trainer.batches(0, 2):
        trainer.step(batch)
        weights.append(trainer.model.text.proj.weight.detach().clone())
    expected = 0.81 * weights[0] + 0.09 * weights[1] + 0.1 * weights[2]
    torch.testing.assert_close(trainer.weights()["text.proj.weight"], expected)


def test_gradients_are_clipped(shards: Path, tmp_path: Path) -> None:
    trainer = begin(config_of(shards, **{"optimizer.max_grad_norm": 0.01}), tmp_path)
    norms: list[float] = []
    step = trainer.optimizers[0].step

    def record(*arguments: object, **options: object) -> object:
        norms.append(float(torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()))
        return step(*arguments, **options)

    trainer.optimizers[0].step = record  # type: ignore[method-assign]
    row = trainer.step(next(iter(trainer.batches(0, 1))))
    assert norms[0] == pytest.approx(0.01, rel=1e-3) and row["gradient_norm"] > 0.1


@pytest.mark.slow
def test_compiled_towers_learn_the_same(shards: Path, tmp_path: Path) -> None:
    one_layer = {"model.vision.layers": 1, "model.text.layers": 1}  # each takes a while to compile
    train(config_of(shards, steps=3, **one_layer), tmp_path / "plain")
    train(
        config_of(shards, steps=3, **one_layer, **{"memory.compile": True}), tmp_path / "compiled"
    )
    plain, compiled = (
        [loss for _, loss, _ in losses(tmp_path / run)] for run in ("plain", "compiled")
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_tensorboard_shows_what_is_logged(shards: Path, tmp_path: Path) -> None:
    """A run that was resumed from an earlier checkpoint shows each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_of(shards, steps=6, **{"output.tensorboard": True})
    train(config, tmp_path / "run")
    (tmp_path / "run" / "model").rename(tmp_path / "first")
    train(config, tmp_path / "run", resume=tmp_path / "run" / "checkpoints" / "000000002")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("loss")]
    assert shown == [(step, pytest.approx(loss)) for step, loss, _ in losses(tmp_path / "run")]
    assert {"logit_scale", "learning_rate", "pairs_per_second"} <= set(events.Tags()["scalars"])


def test_a_step_calls_the_documented_forward(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step calls `CLIP.embed` for each chunk, once in each pass."""
    sizes: list[int] = []
    embed = CLIP.embed

    def count(model: CLIP, pixel_values: Tensor, input_ids: Sequence[Tensor]) -> object:
        sizes.append(len(pixel_values))
        assert sum(map(len, input_ids)) == len(pixel_values)
        return embed(model, pixel_values, input_ids)

    monkeypatch.setattr(CLIP, "embed", count)
    whole = begin(config_of(shards), tmp_path / "whole")
    whole.step(next(iter(whole.batches(0, 1))))
    assert sizes == [8]
    sizes.clear()
    chunks = begin(config_of(shards, **{"memory.chunk_size": 3}), tmp_path / "chunks")
    chunks.step(next(iter(chunks.batches(0, 1))))
    assert sizes == [3, 3, 2] * 2  # without a graph, then with one


# --- faults --------------------------------------------------------------------------------------


def test_a_non_finite_loss_names_its_pairs(shards: Path, tmp_path: Path) -> None:
    config = config_of(
        shards,
        **{"optimizer.lr": 1e30, "optimizer.max_grad_norm": None, "optimizer.warmup_steps": 0},
    )
    with pytest.raises(TrainError, match="the loss is nan"):
        train(config, tmp_path / "run")
    [path] = (tmp_path / "run").glob("non-finite-*.json")
    assert len(json.loads(path.read_text())["keys"]) == 8


def test_a_full_disk_leaves_the_last_good_checkpoint(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, steps=4)
    train(config, tmp_path / "run")
    (tmp_path / "config.json").write_text(replace(config, steps=12).to_json())
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    command = [
        sys.executable,
        "-c",
        limit + SCRIPT,
        tmp_path / "run",
        tmp_path / "config.json",
        "r",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "the checkpoint cannot be written" in done.stderr
    assert "000000004 is the last good one" in done.stderr
    assert newest_checkpoint(tmp_path / "run").name == "000000004"
    assert not list((tmp_path / "run" / "checkpoints").glob(".writing*"))


def test_a_checkpoint_of_another_architecture(shards: Path, tmp_path: Path) -> None:
    train(config_of(shards, steps=2), tmp_path / "run")
    path = newest_checkpoint(tmp_path / "run")
    deeper = replace(tiny_config(), vision=replace(tiny_config().vision, layers=3))
    trainer = Trainer(config_of(shards, model=deeper), tmp_path / "other")
    with pytest.raises(TrainError, match="was made with another model"):
        trainer.resume(path)
    (path / "model.safetensors").write_bytes(b"damaged")
    trainer = Trainer(config_of(shards), tmp_path / "other")
    with pytest.raises(TrainError, match=r"model\.safetensors: damaged or missing"):
        load_checkpoint(path, trainer.config, trainer.state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 6}, r"was made with data\.batch_size=8, not 6"),
        ({"seed": 1}, "was made with seed=0, not 1"),
        ({"data.buffer": 10}, r"data\.buffer=100000, not 10"),
        ({"steps": 1}, "has done 2 steps, more than the 1 of this run"),
    ],
)
def test_a_run_does_not_resume_with_another_order_of_pairs(
    shards: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    run_steps(config_of(shards, steps=2), tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(TrainError, match=message):
        run_steps(config_of(shards, **{"steps": 4, **changes}), tmp_path / "run", resume="latest")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_a_run_does_not_resume_with_fewer_pairs(shards: Path, tmp_path: Path) -> None:
    run_steps(config_of(shards, steps=2), tmp_path / "run")
    fewer = config_of(shards / "000000.tar", steps=4)
    with pytest.raises(TrainError, match="was made with 48 pairs, and the sources now have 20"):
        run_steps(fewer, tmp_path / "run", resume="latest")


def test_what_a_resumed_run_changes_is_named_and_recorded(shards: Path, tmp_path: Path) -> None:
    train(config_of(shards, steps=2), tmp_path / "run")
    shorter = load_file(tmp_path / "run" / "model" / "model.safetensors")
    moved = tmp_path / "elsewhere"
    shutil.copytree(shards, moved)
    changed = config_of(moved, steps=4, **{"optimizer.lr": 2e-3, "data.workers": 1})
    with pytest.warns(UserWarning) as caught:
        train(changed, tmp_path / "run", resume="latest")
    [message] = [str(warning.message) for warning in caught if "resumes" in str(warning.message)]
    assert "optimizer.lr=0.002 (was 0.001)" in message and "steps=4 (was 2)" in message
    assert "data.sources" in message and "workers" not in message
    stored = (tmp_path / "run" / "config.json").read_text()
    assert TrainConfig.from_json(stored, "x") == changed
    # the model is that of all steps, also if the run ended before it was written
    assert [step for step, *_ in losses(tmp_path / "run")] == [0, 1, 2, 3]
    extended = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not torch.equal(shorter["text.proj.weight"], extended["text.proj.weight"])
    os.utime(tmp_path / "run" / "model" / "config.json", ns=(0, 0))  # before the last checkpoint
    train(changed, tmp_path / "run", resume="latest")
    assert (tmp_path / "run" / "model" / "config.json").stat().st_mtime_ns > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.batch_size": 1}, "a batch of 1 has nothing to contrast a pair with"),
        ({"data.batch_size": 64}, "48 pairs are fewer than a batch of 64"),
    ],
)
def test_a_batch_of_a_wrong_size(
    shards: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TwotowerError, match=message):
        train(config_of(shards, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_the_newest_checkpoints_are_kept(shards: Path, tmp_path: Path) -> None:
    train(config_of(shards, steps=8, **{"output.keep": 2}), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000006", "000000008"]


def test_a_run_is_not_overwritten(shards: Path, tmp_path: Path) -> None:
    train(config_of(shards, steps=1), tmp_path / "run")
    with pytest.raises(TrainError, match="holds a run already"):
        train(config_of(shards, steps=1), tmp_path / "run")
    with pytest.raises(TrainError, match="holds no complete checkpoint"):
        train(config_of(shards, steps=1), tmp_path / "none", resume="latest")


# --- settings ------------------------------------------------------------------------------------


def test_settings(shards: Path) -> None:
    settings = ["lr=1e-4", "locked=vision", "ema=none", "betas=.9,.95"]
    settings = [f"optimizer.{setting}" for setting in settings]
    config = with_settings(config_of(shards), [*settings, "memory.compile=true", "steps=3"])
    assert (config.optimizer.lr, config.optimizer.locked) == (1e-4, ("vision",))
    assert config.optimizer.ema is None and config.optimizer.betas == (0.9, 0.95)
    assert config.memory.compile and config.steps == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "no such setting; did you mean 'optimizer.lr'"),
        ("optimizer.weight_decai=1", "no such setting; did you mean 'optimizer.weight_decay'"),
        ("optimizer.lr=fast", "'fast' is not a number; change the value"),
        (
            "optimizer.schedule=linear",
            "'linear' is not cosine or wsd or constant or rsqrt; change the value",
        ),
        ("steps", "has no value; use --set steps=VALUE"),
        ("memory.compile=maybe", "'maybe' is not true or false; change the value"),
        ("model=x", r"no such setting; use one of data\.sources, data\.batch_size"),
        # the spelling before fields were grouped
        ("nope.lr=1", "no such setting; did you mean 'optimizer.lr'"),
        ("memory.lr=1", "no such setting; did you mean 'optimizer.lr'"),
        ("lr", "lr is now optimizer.lr; use --set optimizer.lr=VALUE"),
        ("lr=1e-3", "--set lr=1e-3: lr is now optimizer.lr; use --set optimizer.lr=1e-3"),
        ("learning_rate=1e-3", "use --set optimizer.lr=1e-3"),
        ("batch=64", "use --set data.batch_size=64"),
        ("batch_size=64", "use --set data.batch_size=64"),
        ("optimizer=muon", "use --set optimizer.name=muon"),
        ("memory=8", "use --set memory.limit=8"),
        ("teacher=x", "use --set loss.teacher=x"),
        ("evaluate_every=9", "use --set validation.every=9"),
        ("tensorboard=true", "use --set output.tensorboard=true"),
    ],
)
def test_settings_that_are_wrong(shards: Path, setting: str, message: str) -> None:
    with pytest.raises(TrainError, match=message):
        with_settings(config_of(shards), [setting])


def test_config_round_trip(shards: Path) -> None:
    config = config_of(
        shards,
        **{"optimizer.ema": 0.99, "optimizer.locked": ("text",), "memory.limit": 10**9},
    )
    assert TrainConfig.from_json(config.to_json(), "x") == config
    with pytest.raises(ModelError, match="did you mean 'steps'"):
        TrainConfig.from_json(config.to_json().replace('"steps"', '"step"'), "x")
    with pytest.raises(ModelError, match=r"config\.optimizer has .* 'lrr'; did you mean 'lr'"):
        TrainConfig.from_json(config.to_json().replace('"lr"', '"lrr"'), "x")


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ({"learning_rate": 1e-3}, r"use optimizer=OptimizerConfig\(lr=0\.001\)"),
        ({"optimizer": "muon"}, r"use optimizer=OptimizerConfig\(name='muon'\)"),
        ({"memory": None}, r"use memory=MemoryConfig\(limit=None\)"),
        ({"batch_size": 8}, r"batch_size is now data\.batch_size; use data=DataConfig\("),
    ],
)
def test_fields_outside_their_groups(field: dict[str, object], remedy: str) -> None:
    with pytest.raises(TrainError, match=remedy):
        TrainConfig(tiny_config(), DataConfig(()), 1, **field)


def flat(config: TrainConfig) -> dict[str, object]:
    """Some fields of a configuration as they were written before they were grouped."""
    tree = json.loads(config.to_json())
    return {
        "model": tree["model"],
        "steps": config.steps,
        "batch_size": config.data.batch_size,
        "optimizer": config.optimizer.name,
        "learning_rate": config.optimizer.lr,
        "betas": list(config.optimizer.betas),
        "memory": None,
    }


def test_a_configuration_of_an_earlier_version(shards: Path, tmp_path: Path) -> None:
    """Its fields are named with those of today, also when a run of that version is resumed."""
    config = config_of(shards, steps=2)
    with pytest.raises(TrainError, match=r"learning_rate is now optimizer\.lr") as error:
        TrainConfig.from_json(json.dumps(flat(config)), "config.json")
    assert error.value.subject == "config.json"
    assert "optimizer is now optimizer.name" in error.value.reason
    assert "memory is now memory.limit" in error.value.reason
    assert "and 1 more" in error.value.reason
    train(config, tmp_path / "run")
    state = newest_checkpoint(tmp_path / "run") / "state.json"
    tree = json.loads(state.read_text())
    state.write_text(json.dumps(tree | {"config": flat(config)}))
    with pytest.raises(TrainError, match="finish the run with the version that began it") as error:
        train(config, tmp_path / "run", resume="latest")
    assert error.value.subject == str(state)


def test_scores_while_training(tmp_path: Path) -> None:
    """Every colour is a class; the scores are those of the pairs trained on."""
    pairs = str(colours(tmp_path))
    config = config_of(
        tmp_path,
        steps=60,
        **{
            "data.sources": (pairs,),
            "data.batch_size": 12,
            "output.save_every": 100,
            "output.log_every": 7,
            "validation.every": 30,
            "validation.retrieval": pairs,
            "validation.zero_shot": pairs,
        },
    )
    train(config, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    scored = {line["step"]: line for line in lines if "zero_shot_top1" in line}
    assert list(scored) == [29, 59]
    final = scored[59]
    assert 0 < final["held_out_loss"] < scored[29]["held_out_loss"] < 4
    assert final["text_to_image_recall_at_1"] > 0.5 and final["image_to_text_recall_at_5"] > 0.7
    assert 0 <= final["zero_shot_top1"] <= 1
    silent = with_values(config, {"validation.retrieval": None, "validation.zero_shot": None})
    train(silent, tmp_path / "silent")
    assert_same_weights(tmp_path / "run" / "model", tmp_path / "silent" / "model")
