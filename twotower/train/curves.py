"""Pictures of a run: its curves and its worst confusions; and advice on a loss that is stuck."""

from __future__ import annotations

import io
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
from twotower.train.run_log import read_log

PATIENCE = 40  # logged steps before advice on a stuck loss
MIN_STEPS = 200  # after the warm-up, before advice at the end of a run
STUCK = 0.05  # nats around ln(batch size) within which nothing is learned


def explain(run: Path) -> Iterator[str]:
    """Yield advice if the loss of a run shows that nothing was learned."""
    rows = read_log(run)
    path = run / "config.json"
    config = TrainConfig.from_json(path.read_text(encoding="utf-8"), path)
    if rows[-1]["step"] + 1 < MIN_STEPS + config.optimizer.warmup_steps:
        return  # too early to tell
    advice = advise_on_stuck_loss([row["loss"] for row in rows], config)
    if advice:
        yield advice


def advise_on_stuck_loss(losses: list[float], config: TrainConfig) -> str | None:
    """Return advice if the second half of `losses` is at chance level.

    A sigmoid loss and that of a teacher have no such level.
    """
    batch_size = config.data.batch_size
    chance = math.log(batch_size)
    second_half = losses[len(losses) // 2 :]
    distance = abs(sum(second_half) / len(second_half) - chance)
    if config.model.logit_bias or config.loss.teacher or distance > STUCK:
        return None
    return (
        f"The loss stays at ln({batch_size}) = {chance:.2f}, which is chance level: nothing "
        "is learned. Try a smaller learning rate (--set optimizer.lr=1e-4) and a longer warm-up "
        "(--set optimizer.warmup_steps=...), and check that captions belong to their pictures "
        "(twotower pairs stats)."
    )


def plot(run: Path) -> Path:
    """Draw loss, temperature, learning rate, speed and held-out scores to `RUN/curves.png`.

    Raises:
        TrainError: the folder holds no log, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise TrainError(
            "train plot", "matplotlib is not installed", "pip install 'twotower[train]'"
        ) from None
    rows: list[dict[str, Any]] = [dict(row) for row in read_log(run)]
    scores = sorted({name for row in rows for name in row if "recall" in name or "top1" in name})
    panels = {
        "loss": [
            "loss",
            *(["held_out_loss"] if any("held_out_loss" in row for row in rows) else []),
        ],
        "temperature, exp(logit_scale)": ["logit_scale"],
        "learning rate": ["learning_rate"],
        "pairs a second": ["pairs_per_second"],
        "share of the time that the loop waits for pairs": ["waited_for_data"],
        "held-out scores": scores,
    }
    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
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
    """Draw a model's errors with the highest scores, on pictures whose caption is their class.

    Args:
        run: the folder of a run that is complete.
        location: the pairs, as `open_source` takes them.
        count: errors to draw.

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
    labels = np.array([classnames.index(pair.captions[0]) for pair in pairs])
    wrong = np.flatnonzero(guesses != labels)
    highest = wrong[np.argsort(-scores[wrong, guesses[wrong]])][:count]
    cells = [
        (pairs[row].picture, classnames[guesses[row]], pairs[row].captions[0]) for row in highest
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
