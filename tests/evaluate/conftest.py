"""Sets of coloured squares, and a fast encoder of colours that classifies them correctly."""

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
    """Encode a picture as its mean colour minus grey, and a text as the colours that it names."""

    templates = ("a {} square",)

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        means = [np.asarray(picture, np.float32).mean(axis=(0, 1)) for picture in pictures]
        return np.stack(means) - 128

    def encode_text(self, texts: list[str]) -> Any:
        rows = []
        for text in texts:
            colours = [COLOURS[word] for word in re.findall(r"\w+", text) if word in COLOURS]
            rows.append(np.mean(colours, axis=0) - 128 if colours else np.ones(3))
        return np.array(rows, np.float32)


def square(colour: str, seed: int) -> PIL.Image.Image:
    """Return a square with noise, which differs for each seed."""
    noise = np.random.default_rng(seed).integers(-25, 26, (24, 20, 3))
    return PIL.Image.fromarray(np.clip(COLOURS[colour] + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders with 4 red, 3 green and 5 blue squares."""
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
        captions = [f"a {colour} square", f"something {colour}"]
        (root / f"{number}.json").write_text(json.dumps({"captions": captions}))
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run `twotower evaluate ...` with the colour encoder; return exit code, stdout, stderr."""
    from twotower.cli.main import main

    def call(
        *arguments: object, model: str | None = "tests.evaluate.conftest:ColourEncoder"
    ) -> Any:
        words = ["evaluate", *map(str, arguments), *(["--model", model] if model else [])]
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call
