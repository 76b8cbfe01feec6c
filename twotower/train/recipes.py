"""Named configurations of runs.

`pretrain` is the training of the CLIP paper on any pairs, `distill` adds a teacher, and `emoji` is
a first training that needs no data. The bundled model has a recipe of its own
(`recipes/twotower_small`).
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
from twotower.train.architecture import open_architecture
from twotower.train.config import (
    DataConfig,
    LossConfig,
    MemoryConfig,
    OptimizerConfig,
    OutputConfig,
    TrainConfig,
    ValidationConfig,
    with_settings,
)

EPOCHS = 32  # Radford et al. 2021, table 18
EMOJI = Path(__file__).parent / "emoji"  # noto.tar and twemoji.tar


def pretrain(
    sources: Sequence[str],
    model: str,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    epochs: int = EPOCHS,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Configure the training of Radford et al. 2021: 32 epochs, warm-up of 2000 steps or a tenth.

    Args:
        sources: pairs, as `open_source` takes them.
        model: a preset or the JSON file of an architecture (fresh weights), or weights to start
            from, in any format that `load` takes.
        batch_size: pairs of all ranks together.
        steps: by default those of `epochs`.
        memory: bytes that a rank may use.
        settings: `NAME=VALUE` overrides of fields of `TrainConfig`.

    Raises:
        ModelError: no such preset.
        TrainError: a setting that does not exist.
    """
    stored, directory = open_architecture(model)
    config = replace(stored, text_folder=None)
    data = DataConfig(
        sources=tuple(sources), batch_size=batch_size, workers=max(1, (os.cpu_count() or 1) - 1)
    )
    if steps is None:
        steps = steps_of(data, epochs)
    # the paper's constants for ResNets and for transformers (table 20)
    resnet = isinstance(config.vision, ResNetConfig)
    run = TrainConfig(
        model=config,
        data=data,
        steps=steps,
        start_from=str(directory) if directory else None,
        tokenizer_files=str(stored.text_directory(directory)) if directory else None,
        optimizer=OptimizerConfig(
            betas=(0.9, 0.999) if resnet else (0.9, 0.98),
            eps=1e-8 if resnet else 1e-6,
            warmup_steps=min(2000, steps // 10),
        ),
        memory=MemoryConfig(limit=memory),
    )
    return with_settings(run, settings)


def steps_of(data: DataConfig, epochs: int) -> int:
    """Return the number of steps of some epochs; what is left over of an epoch is no batch."""
    weights = data.weights or (1.0,) * len(data.sources)
    counts = (len(open_source(source)) for source in data.sources)
    pairs = sum(int(weight * count) for weight, count in zip(weights, counts, strict=True))
    return epochs * max(1, pairs // data.batch_size)


def distill(
    sources: Sequence[str],
    model: str,
    teacher: Path,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    epochs: int = EPOCHS,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Configure `pretrain` with a teacher whose embeds the student learns (Wu et al. 2023).

    Args:
        model: a preset, which gets the teacher's `embed_dim`, or a model directory that has it.
        teacher: a model directory.

    Raises:
        ModelError: no such preset.
        TrainError: a setting that does not exist, or a preset whose `embed_dim` cannot change.
    """
    run = pretrain(sources, model, batch_size=batch_size, steps=steps, epochs=epochs, memory=memory)
    embed_dim = read_config(teacher).embed_dim
    student = run.model
    if not run.start_from and student.embed_dim != embed_dim:
        if getattr(student.vision, "pool", None) == "map":
            raise TrainError(
                model,
                f"its embeds are as wide as its tower, {student.embed_dim} numbers, and the "
                f"teacher's have {embed_dim}",
                "choose another student",
            )
        student = replace(student, embed_dim=embed_dim)
    loss = LossConfig(teacher=str(teacher), feature_weight=20.0, affinity_weight=1.0)
    return with_settings(replace(run, model=student, loss=loss), settings)


def emoji(steps: int = 200, batch_size: int = 256) -> TrainConfig:
    """Configure a first training from scratch, under five minutes on two cores.

    Trains on 1,526 Noto emoji with their CLDR names, and is tested on Twemoji's drawings of the
    same emoji, which it has never seen.
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
    held_out = str(EMOJI / "twemoji.tar")
    return TrainConfig(
        model=model,
        data=DataConfig((str(EMOJI / "noto.tar"),), batch_size, zoom=1.3, workers=1),
        steps=steps,
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.98), warmup_steps=steps // 10),
        loss=LossConfig(multi_positive=True),
        validation=ValidationConfig(
            every=max(1, steps // 6), retrieval=held_out, zero_shot=held_out
        ),
        output=OutputConfig(log_every=20, save_every=steps),
    )
