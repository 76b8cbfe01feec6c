"""The emoji training: its pairs, and (slow) a shorter run."""

import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from twotower.pairs.shards import count_pairs
from twotower.pairs.sources import open_source
from twotower.train.recipes import emoji
from twotower.train.run_log import read_log

STEPS = 40  # of 200
BAR = 0.01  # of 1 526 names, after these steps; chance is 0.07 %


def test_both_artists_drew_the_same_things() -> None:
    config = emoji()
    noto, twemoji = open_source(config.data.sources[0]), open_source(config.validation.zero_shot)
    assert len(noto) == len(twemoji) == 1526
    for number in (0, 700, 1525):
        assert noto[number].captions == twemoji[number].captions
        assert noto[number].picture != twemoji[number].picture
    stats = count_pairs(noto)
    assert stats.broken == [] and stats.formats == {"WEBP": 1526} and set(stats.widths) == {64}
    assert noto[noto_number(noto, "1f408")].captions == ("cat",)


def noto_number(source: object, key: str) -> int:
    return next(i for i in range(len(source)) if source.key(i) == key)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_another_artists_emoji_are_recognised(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "twotower", "train", "emoji", "--run", run]
    command += ["--set", f"steps={STEPS}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "of another artist's emoji correctly" in done.stdout
    assert read_log(run)[-1]["zero_shot_top1"] > BAR
    for name in ("curves.png", "confusions.png"):
        with PIL.Image.open(run / name) as image:
            assert image.width > 600
