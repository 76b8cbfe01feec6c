"""What people see of a run: a plan before, a progress line during, a picture and advice after."""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from torch.utils.flop_counter import FlopCounterMode

from twotower.encode.classify import zero_shot_classifier
from twotower.encode.load import load
from twotower.model.clip import CLIP
from twotower.pairs.sources import open_source
from twotower.train.accumulate import Towers, saved_bytes
from twotower.train.config import TrainConfig, TrainError
from twotower.train.loop import LOG, prepare_model

DECODE_BOUND = 0.2  # share of the time that the loop waits for pairs
PATIENCE = 40  # logged steps before a stuck loss is spoken of
STUCK = 0.05  # nats around ln(batch) within which nothing is being learned


def describe(config: TrainConfig) -> Iterator[str]:
    """The configuration, parameter counts, memory and arithmetic of a step."""
    yield config.to_json()
    with torch.device("meta"):  # shapes without numbers
        model = prepare_model(replace(config, start_from=None))
    counts = {
        name: sum(one.numel() for one in getattr(model, name).parameters())
        for name in ("vision", "text")
    }
    learning = sum(one.numel() for one in model.parameters() if one.requires_grad)
    yield f"parameters  {counts['vision']:,} vision, {counts['text']:,} text; {learning:,} learn"
    fixed = 4 * 4 * learning + 4 * (sum(counts.values()) - learning)
    yield f"memory      {fixed / 1e9:.2f} GB for weights, gradients and moments"
    pair = activation_bytes(model, config)
    if config.memory:
        yield f"            the rest of {config.memory / 1e9:.1f} GB for {pair / 1e6:.0f} MB a pair"
    else:
        size = config.chunk_size or config.batch_size
        yield (
            f"            {size * pair / 1e9:.2f} GB for activations of {size:,} pairs "
            f"({pair / 1e6:.0f} MB each), shared by the ranks; less with --memory"
        )
    flops = 3 * forward_flops(model) * config.batch_size
    yield f"arithmetic  {flops / 1e12:.2f} TFLOP a step (texts at full length)"
    total = flops * config.steps
    yield f"in all      {config.steps:,} steps, {total / 1e18:.3g} EFLOP"


def activation_bytes(model: CLIP, config: TrainConfig) -> int:
    """What the graph of one more pair of full length keeps for backward; `model` is on "meta"."""
    side, length = config.model.vision.image_size, config.model.tokenizer.context_length
    with torch.device("meta"):
        pixel_values = torch.empty(2, 3, side, side)
        input_ids = torch.ones(2, length, dtype=torch.long)
    one, two = (
        saved_bytes(Towers(model), pixel_values[:count], input_ids[:count]) for count in (1, 2)
    )
    return two - one


def forward_flops(model: CLIP) -> int:
    """Floating-point operations of one pair through both towers; `model` is on "meta"."""
    config = model.config
    side, length = config.vision.image_size, config.tokenizer.context_length
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model.vision(torch.empty(1, 3, side, side))
        model.text(torch.ones(1, length, dtype=torch.long))
    return counter.get_total_flops()


@contextlib.contextmanager
def watch(config: TrainConfig) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows each logged step: a bar on a terminal, else lines on stderr.

    Where the loss says that nothing is being learned, it says so, once.
    """
    losses: list[float] = []

    def advice(told: dict[str, Any]) -> str | None:
        losses.append(told.get("loss", math.nan))
        return why_stuck(losses, config) if len(losses) == PATIENCE else None

    if not sys.stderr.isatty():

        def print_lines(told: dict[str, Any]) -> None:
            print(line(told), file=sys.stderr)  # noqa: T201
            if text := advice(told):
                print(text, file=sys.stderr)  # noqa: T201

        yield print_lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=config.steps)

        def move_bar(told: dict[str, Any]) -> None:
            done = told.get("step", -1) + 1
            progress.update(task, completed=done, description=line(told), refresh=True)
            if text := advice(told):
                progress.console.print(text)

        yield move_bar


def line(told: dict[str, Any]) -> str:
    """One logged step, or how far the teacher has been asked, in one line."""
    if "asked" in told:
        return f"the teacher has seen {told['asked']:,} of {told['pairs']:,} pairs"
    waited = told["waited_for_data"]
    text = (
        f"step {told['step']}  loss {told['loss']:.3f}  scale {told['logit_scale']:.1f}  "
        f"{told['pairs_per_second']:.0f} pairs/s  data wait {waited:.0%}"
    )
    return text + "  (decode-bound: add workers)" * (waited > DECODE_BOUND)


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
