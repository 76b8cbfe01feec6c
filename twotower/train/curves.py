"""What people see of a run: a plan before, a progress line during, a picture and advice after."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from twotower.encode.classify import zero_shot_classifier
from twotower.encode.load import load
from twotower.errors import TrainError
from twotower.pairs.sources import open_source
from twotower.train.config import TrainConfig
from twotower.train.loop import LOG

DECODE_BOUND = 0.2  # share of the time that the loop waits for pairs
PATIENCE = 40  # logged steps before a stuck loss is spoken of
STUCK = 0.05  # nats around ln(batch) within which nothing is being learned


def read_log(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run. Raises `TrainError` where there are none."""
    try:
        text = (run / LOG).read_text(encoding="utf-8")
    except OSError as error:
        raise TrainError(f"{run / LOG}: {error.strerror}; give the folder of a run") from None
    told = [json.loads(one) for one in text.splitlines()]
    if not told:
        raise TrainError(f"{run / LOG}: nothing is logged yet")
    return told


def explain(run: Path) -> Iterator[str]:
    """Advice where the loss of a run says that nothing was learned."""
    told = read_log(run)
    config = TrainConfig.from_json((run / "config.json").read_text(encoding="utf-8"), run)
    text = why_stuck([one["loss"] for one in told], config)
    if text:
        yield text


def why_stuck(losses: list[float], config: TrainConfig) -> str | None:
    """Advice where the second half of `losses` lies at chance; SigLIP's loss has no such level."""
    chance = math.log(config.batch_size)
    late = losses[len(losses) // 2 :]
    if config.model.logit_bias or config.teacher or abs(sum(late) / len(late) - chance) > STUCK:
        return None
    return (
        f"The loss stays at ln({config.batch_size}) = {chance:.2f}, which is chance: all embeds "
        "have become one. Try a smaller learning rate (--set lr=1e-4) and a longer warm-up (--set "
        "warmup_steps=...), and look whether captions belong to their pictures (twotower pairs "
        "stats)."
    )


def plot(run: Path) -> Path:
    """Draw loss, temperature, learning rate, speed and held-out scores to `RUN/curves.png`."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise TrainError("drawing needs matplotlib: pip install 'twotower[train]'") from None
    told = read_log(run)
    scores = sorted({name for one in told for name in one if "recall" in name or "top1" in name})
    panels = {
        "loss": ["loss"],
        "temperature, exp(logit_scale)": ["logit_scale"],
        "learning rate": ["learning_rate"],
        "pairs a second": ["pairs_per_second"],
        "share of the time that the loop waits for pairs": ["waited_for_data"],
        "held-out scores": scores,
    }
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for name in names:
            points = [(one["step"], one[name]) for one in told if name in one]
            axes.plot(*zip(*points, strict=True), linewidth=1, label=name.replace("_", " "))
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize="small")
    path = run / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def draw_confusions(run: Path, location: str, count: int = 24) -> Path:
    """Draw the mistakes that a run's model is surest of, on pictures whose caption is their class.

    Returns:
        `RUN/confusions.png`.
    """
    model = load(run / "model")
    source = open_source(location)
    pairs = [source[number] for number in range(len(source))]
    classnames = sorted({pair.captions[0] for pair in pairs})
    classifier = zero_shot_classifier(model, classnames, model.config.templates)
    scores = model.encode_image([pair.picture for pair in pairs]) @ classifier.T
    guesses = scores.argmax(axis=1)
    right = np.array([classnames.index(pair.captions[0]) for pair in pairs])
    wrong = np.flatnonzero(guesses != right)
    surest = wrong[np.argsort(-scores[wrong, guesses[wrong]])][:count]
    cells = [
        (pairs[one].picture, classnames[guesses[one]], pairs[one].captions[0]) for one in surest
    ]
    path = run / "confusions.png"
    _draw_cells(cells, path)
    return path


def _draw_cells(cells: list[tuple[bytes, str, str]], path: Path, columns: int = 6) -> None:
    width, height = 180, 124
    rows = -(-len(cells) // columns)
    sheet = PIL.Image.new("RGB", (columns * width, max(1, rows) * height), "white")
    draw, font = PIL.ImageDraw.Draw(sheet), PIL.ImageFont.load_default(13)
    for index, (picture, guess, truth) in enumerate(cells):
        x, y = index % columns * width, index // columns * height
        image = PIL.Image.open(io.BytesIO(picture)).convert("RGB").resize((72, 72))
        sheet.paste(image, (x + (width - 72) // 2, y + 6))
        draw.text((x + 8, y + 82), f"taken for {guess}"[:27], fill=(190, 40, 40), font=font)
        draw.text((x + 8, y + 100), truth[:27], fill=(90, 90, 90), font=font)
    sheet.save(path)
