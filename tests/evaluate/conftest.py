"""A set of coloured squares, and an encoder that sees colour: fast, and right by construction."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 230)}


class ColourEncoder:
    """Pictures by their mean colour less grey; texts by the colours that they name."""

    templates = ("a {} square",)

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        means = [np.asarray(one, np.float32).mean(axis=(0, 1)) for one in pictures]
        return np.stack(means) - 128

    def encode_text(self, texts: list[str]) -> Any:
        rows = []
        for text in texts:
            named = [COLOURS[word] for word in re.findall(r"\w+", text) if word in COLOURS]
            rows.append(np.mean(named, axis=0) - 128 if named else np.ones(3))
        return np.array(rows, np.float32)


def square(colour: str, seed: int) -> PIL.Image.Image:
    """Noisy, so that no two are alike."""
    noise = np.random.default_rng(seed).integers(-25, 26, (24, 20, 3))
    return PIL.Image.fromarray(np.clip(COLOURS[colour] + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders: 4 red, 3 green, 5 blue squares."""
    root = tmp_path / "squares"
    for colour, count in (("red", 4), ("green", 3), ("blue", 5)):
        (root / colour).mkdir(parents=True)
        for number in range(count):
            square(colour, number).save(root / colour / f"{number}.png")
    return root


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Three pictures with two captions each."""
    root = tmp_path / "captioned"
    root.mkdir()
    for number, colour in enumerate(COLOURS):
        square(colour, number).save(root / f"{number}.jpg")
        said = [f"a {colour} square", f"something {colour}"]
        (root / f"{number}.json").write_text(json.dumps({"captions": said}))
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`twotower evaluate ...` with the colour encoder; (exit code, stdout, stderr)."""
    from twotower.cli.main import main

    def call(
        *arguments: object, model: str | None = "tests.evaluate.conftest:ColourEncoder"
    ) -> Any:
        words = ["evaluate", *map(str, arguments), *(["--model", model] if model else [])]
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call
