"""The plan before a run, progress lines, curves, and advice on a stuck loss."""

import json
import math
from pathlib import Path

import PIL.Image
import pytest
import torch

from tests.tiny_models import tiny_config
from twotower.cli.train_progress import format_remaining, format_row, show_training
from twotower.errors import TrainError
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.progress import Progress
from twotower.train.config import DataConfig, TrainConfig, with_values
from twotower.train.curves import explain, plot
from twotower.train.estimate import (
    activation_bytes,
    describe,
    probe_pairs,
    saved_bytes,
    unavailable_bytes,
)
from twotower.train.towers import Towers

CONFIG = TrainConfig(tiny_config(), DataConfig(("x",), batch_size=64), steps=100)


def log_row(step: int, loss: float, waited: float = 0.0) -> dict[str, object]:
    return {
        "step": step,
        "loss": loss,
        "logit_scale": 14.3,
        "learning_rate": 1e-3,
        "pairs_per_second": 100.0,
        "waited_for_data": waited,
    }


def write_run(folder: Path, losses: list[float], config: TrainConfig = CONFIG) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    lines = [json.dumps(log_row(step, loss)) for step, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    return folder


def test_the_plan_has_the_published_counts() -> None:
    """4.4 GFLOP of a ViT-B/32 picture and 2.9 of 77 positions of text, times 2 for multiply-add."""
    config = with_values(CONFIG, {"model": preset("ViT-B-32"), "data.batch_size": 1})
    text = "\n".join(describe(config))
    assert "87,849,216 vision, 63,428,096 text; 151,277,313 learn" in text
    assert "memory      2.42 GB" in text
    [activations] = [line for line in text.splitlines() if "activations of 1 pairs" in line]
    assert (
        60 < float(activations.split("(")[1].split()[0]) < 240
    )  # MB, twice what the graph keeps: 50 and 77 positions, 24 blocks
    [step] = [line for line in text.splitlines() if line.startswith("arithmetic")]
    assert float(step.split()[1]) == pytest.approx(3 * 2 * (4.4e9 + 2.9e9) / 1e12, abs=0.01)


def test_a_locked_tower_does_not_learn() -> None:
    text = "\n".join(
        describe(
            with_values(CONFIG, {"model": preset("ViT-B-32"), "optimizer.locked": ("vision",)})
        )
    )
    assert "63,428,097 learn" in text


def test_waiting_for_data_is_shown() -> None:
    assert "decode-bound" not in format_row(log_row(3, 1.0, waited=0.05))
    assert "data wait 60%  (decode-bound: add workers)" in format_row(log_row(3, 1.0, waited=0.6))


@pytest.mark.parametrize(
    ("step", "speed", "text"),
    [
        (99, 100.0, "0 s left"),
        (49, 100.0, "32 s left"),
        (0, 10.0, "11 min left"),
        (0, 0.5, "4 h left"),
    ],
)
def test_the_remaining_time(step: int, speed: float, text: str) -> None:
    config = with_values(CONFIG, {"steps": 100, "data.batch_size": 64})
    assert format_remaining(log_row(step, 1.0) | {"pairs_per_second": speed}, config) == text


def test_a_run_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    with show_training(with_values(CONFIG, {"steps": 100, "data.batch_size": 64})) as (report, _):
        assert "Training 100 steps, 6,400 pairs" in capsys.readouterr().err
        report(log_row(49, 1.0))
        assert "32 s left" in capsys.readouterr().err


def test_memory_is_measured_at_the_length_of_the_texts() -> None:
    """It is that of the tokenizer, which may be shorter than the positions of the tower."""
    model = preset("twotower-small")
    pixel_values, input_ids = probe_pairs(model, torch.device("meta"))
    assert model.text.context_length == 512 and input_ids.shape == (3, model.tokenizer.max_length)
    assert pixel_values.shape == (3, 3, 224, 224)
    with torch.device("meta"):
        assert activation_bytes(CLIP(model), with_values(CONFIG, {"model": model})) < 200e6


def test_the_limit_counts_pictures_and_libraries() -> None:
    config = with_values(CONFIG, {"data.batch_size": 1000})
    side = config.model.vision.image_size
    cpu, cuda = (unavailable_bytes(config, torch.device(name)) for name in ("cpu", "cuda"))
    assert cuda == 1000 * 3 * side**2 * 5 and cpu - cuda == 600 * 2**20


def test_advice_on_a_stuck_loss(tmp_path: Path) -> None:
    config = with_values(CONFIG, {"optimizer.warmup_steps": 10})
    stuck = write_run(tmp_path / "stuck", [5.0, 4.3, *[math.log(64)] * 220], config)
    assert "stays at ln(64) = 4.16" in next(explain(stuck))
    fine = write_run(tmp_path / "fine", [4.2 - 0.01 * i for i in range(220)], config)
    assert list(explain(fine)) == []
    # a dozen steps, and a whole warm-up, tell nothing
    for steps, warmup_steps in ((12, 0), (220, 200)):
        config = with_values(CONFIG, {"optimizer.warmup_steps": warmup_steps})
        begun = write_run(tmp_path / str(steps), [math.log(64)] * steps, config)
        assert list(explain(begun)) == []


def test_the_plan_with_memory_shows_the_memory_of_a_pair() -> None:
    text = "\n".join(describe(with_values(CONFIG, {"memory.limit": 8 * 10**9})))
    assert "the rest of 8.0 GB for" in text


def test_activations_on_meta_match_those_in_memory() -> None:
    config = with_values(CONFIG, {"data.batch_size": 1})
    with torch.device("meta"):
        expected = activation_bytes(CLIP(config.model), config)
    pixel_values, input_ids = torch.zeros(3, 3, 64, 64), torch.ones(3, 77, dtype=torch.long)
    input_ids[:, -1] = 49407
    towers = Towers(CLIP(config.model))
    saved = [saved_bytes(towers, pixel_values[:n], input_ids[:n]) for n in (2, 3)]
    assert saved[1] - saved[0] == pytest.approx(expected, rel=0.35)  # "meta" uses another attention


def test_advice_is_printed_once_while_training(capsys: pytest.CaptureFixture[str]) -> None:
    with show_training(CONFIG) as (report, _):
        for step in range(100):
            report(log_row(step, math.log(64)))
    assert capsys.readouterr().err.count("stays at ln(64) = 4.16") == 1
    with show_training(CONFIG) as (report, progress):
        progress(Progress(512, 6497, stage="Embedding pairs with the teacher"))
        for step in range(100):
            report(log_row(step, 4.2 - 0.01 * step))
    err = capsys.readouterr().err
    assert "stays at" not in err and "Embedding pairs with the teacher: 512 of 6,497" in err


def test_curves_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.5])
    with PIL.Image.open(plot(run)) as image:
        assert image.size == (1430, 660)
        assert len(image.convert("RGB").getcolors(10**6)) > 50
    with pytest.raises(TrainError, match="give the folder of a run"):
        plot(tmp_path / "nowhere")
