"""The plan before a run, the line during it, the picture and the advice after."""

import json
import math
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from tests.conftest import tiny_config
from twotower.model.config import preset
from twotower.train.config import TrainConfig, TrainError
from twotower.train.show import describe, explain, line, plot

CONFIG = TrainConfig(model=tiny_config(), sources=("x",), steps=100, batch_size=64)


def told(step: int, loss: float, waited: float = 0.0) -> dict[str, object]:
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
    lines = [json.dumps(told(step, loss)) for step, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("\n".join(lines))
    return folder


def test_the_plan_counts_what_is_published() -> None:
    """4.4 GFLOP of a ViT-B/32 picture and 2.9 of 77 positions of text, times 2 for multiply-add."""
    config = replace(CONFIG, model=preset("ViT-B-32"), batch_size=1)
    text = "\n".join(describe(config))
    assert "87,849,216 vision, 63,428,096 text; 151,277,313 learn" in text
    assert "memory      2.42 GB" in text
    [step] = [one for one in text.splitlines() if one.startswith("arithmetic")]
    assert float(step.split()[1]) == pytest.approx(3 * 2 * (4.4e9 + 2.9e9) / 1e12, abs=0.01)


def test_a_locked_tower_does_not_learn() -> None:
    text = "\n".join(describe(replace(CONFIG, model=preset("ViT-B-32"), locked=("vision",))))
    assert "63,428,097 learn" in text


def test_waiting_for_data_is_named() -> None:
    assert "decode-bound" not in line(told(3, 1.0, waited=0.05))
    assert "data wait 60%  (decode-bound: add workers)" in line(told(3, 1.0, waited=0.6))


def test_a_stuck_loss_is_explained(tmp_path: Path) -> None:
    stuck = write_run(tmp_path / "stuck", [5.0, 4.3, *[math.log(64)] * 20])
    assert "stays at ln(64) = 4.16" in next(explain(stuck))
    fine = write_run(tmp_path / "fine", [4.2 - 0.1 * i for i in range(20)])
    assert list(explain(fine)) == []


def test_curves_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [4.0, 3.0, 2.5])
    with PIL.Image.open(plot(run)) as image:
        assert image.size == (1430, 660)
        assert len(image.convert("RGB").getcolors(10**6)) > 50
    with pytest.raises(TrainError, match="give the folder of a run"):
        plot(tmp_path / "nowhere")
