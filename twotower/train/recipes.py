"""Named runs as Python functions.

`pretrain` is the paper's training on any pairs, `emoji` a first one that needs no data. The recipe
of the model inside the package has a file of its own (`bundled.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twotower.errors import TrainError
from twotower.model.config import ResNetConfig, TextTransformerConfig, read_config
from twotower.model.presets import preset
from twotower.pairs.sources import open_source
from twotower.train.config import TrainConfig, with_settings


def pretrain(
    sources: Sequence[str],
    model: str,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Radford et al. 2021 on any pairs: 32 epochs, warmed up for 2000 steps or a tenth.

    Args:
        model: a preset (fresh weights), or a model directory to go on from.
        settings: `NAME=VALUE` overrides of `TrainConfig`.

    Raises:
        ConfigError: no such preset. TrainError: a setting that does not exist.
    """
    directory = Path(model)
    start_from = directory if directory.is_dir() else None
    config = read_config(directory) if start_from else preset(model)
    if steps is None:
        pairs = sum(len(open_source(one)) for one in sources)
        steps = 32 * max(1, pairs // batch_size)
    # ResNets learn with other constants than transformers do (table 20 of the paper)
    resnet = isinstance(config.vision, ResNetConfig)
    run = TrainConfig(
        model=config,
        sources=tuple(sources),
        steps=steps,
        batch_size=batch_size,
        memory=memory,
        start_from=str(start_from) if start_from else None,
        tokenizer_files=str(start_from) if start_from else None,
        betas=(0.9, 0.999) if resnet else (0.9, 0.98),
        eps=1e-8 if resnet else 1e-6,
        warmup_steps=min(2000, steps // 10),
        workers=max(1, (os.cpu_count() or 1) - 1),
    )
    return with_settings(run, list(settings))


def distill(
    sources: Sequence[str],
    model: str,
    teacher: Path,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """`pretrain` with a teacher whose space the student shares (Wu et al. 2023).

    Args:
        model: a preset, which gets the teacher's `embed_dim`, or a model directory that has it.
        teacher: a model directory.

    Raises:
        ConfigError, TrainError: as for `pretrain`, or the preset's space has a width of its own.
    """
    run = pretrain(sources, model, batch_size=batch_size, steps=steps, memory=memory)
    embed_dim = read_config(teacher).embed_dim
    student = run.model
    if not run.start_from and student.embed_dim != embed_dim:
        if getattr(student.vision, "pool", None) == "map":
            raise TrainError(
                f"{model}: its space is as wide as its tower, {student.embed_dim}, and the "
                f"teacher's has {embed_dim} numbers; choose another student"
            )
        student = replace(student, embed_dim=embed_dim)
    run = replace(
        run, model=student, teacher=str(teacher), feature_weight=20.0, affinity_weight=1.0
    )
    return with_settings(run, list(settings))


def emoji(steps: int = 200, batch_size: int = 256) -> TrainConfig:
    """A first training from scratch, under five minutes on two cores.

    1 526 drawings of Noto with their CLDR names; scored on Twemoji's drawings of the same things,
    another artist's, which are never seen.
    """
    base = preset("RN50")
    model = replace(
        base,
        name="emoji",
        embed_dim=128,
        vision=ResNetConfig(64, 32, (1, 1, 1, 1)),
        text=TextTransformerConfig(24, 49408, 128, 2, 2, 512, "quick_gelu"),
        preprocess=replace(base.preprocess, image_size=64),
        tokenizer=replace(base.tokenizer, context_length=24),
        templates=("{}",),
    )
    drawings = Path(__file__).parent / "emoji"
    return TrainConfig(
        model=model,
        sources=(str(drawings / "noto.tar"),),
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        betas=(0.9, 0.98),
        warmup_steps=steps // 10,
        zoom=1.3,
        multi_positive=True,
        workers=1,
        log_every=20,
        save_every=steps,
        evaluate_every=max(1, steps // 6),
        retrieval=str(drawings / "twemoji.tar"),
        zero_shot=str(drawings / "twemoji.tar"),
    )
