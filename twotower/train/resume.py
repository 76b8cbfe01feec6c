"""The configuration of a run that is resumed: that of the run, with what is said in addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from twotower.errors import TrainError
from twotower.pairs.sources import open_source
from twotower.train.architecture import open_architecture
from twotower.train.checkpoint import LATEST, newest_checkpoint, read_state, stored_config
from twotower.train.config import TrainConfig, with_settings, with_values
from twotower.train.recipes import steps_of

ORDER = ("batch_size", "weights", "buffer")  # fields of `DataConfig` with the number of pairs


def resume_config(
    run: Path,
    checkpoint: str,
    *,
    sources: Sequence[str] = (),
    model: str | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Return the configuration of a run with the given changes.

    With other pairs or batches, their order begins anew at the checkpoint.

    Args:
        checkpoint: "latest" for the newest checkpoint and `RUN/config.json`, or the folder of a
            checkpoint, which brings the configuration that it was made with.
        model: must be the run's, if it is given.

    Raises:
        TrainError: no such run or checkpoint, another model, or a setting that does not exist.
    """
    path = newest_checkpoint(run) if checkpoint == LATEST else Path(checkpoint)
    before = read_run_config(run) if checkpoint == LATEST else stored_config(path)
    if model is not None:
        _require_model(model, before, settings, run)
    values = {"data.batch_size": batch_size, "steps": steps, "memory.limit": memory}
    config = with_values(before, {name: v for name, v in values.items() if v is not None})
    if sources:
        config = replace(config, data=replace(config.data, sources=tuple(sources)))
    if epochs is not None:
        config = replace(config, steps=steps_of(config.data, epochs))
    config = with_settings(config, settings)
    state = read_state(path)
    if _has_other_order(before, config, state.get("pairs", []) if sources else []):
        config = with_values(config, {"data.first_step": state["step"]})
    return config


def read_run_config(run: Path) -> TrainConfig:
    """Read `RUN/config.json`. Raises `TrainError` if there is none."""
    path = run / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise TrainError(run, "holds no run", "start it without --resume") from None
    return TrainConfig.from_json(text, path)


def _require_model(model: str, run: TrainConfig, settings: Sequence[str], folder: Path) -> None:
    """Raise `TrainError` if `model` with the settings is another one than that of the run."""
    opened, _ = open_architecture(model)
    opened = replace(opened, text_folder=None)
    architecture = [setting for setting in settings if setting.startswith("model.")]
    expected = with_settings(replace(run, model=opened), architecture).model
    names = {"embed_dim": run.model.embed_dim, "name": run.model.name}  # a teacher sets the first
    if replace(expected, **names) != run.model:  # type: ignore[arg-type]
        raise TrainError(
            f"--model {model}",
            f"{folder} trains another model, {run.model.name}",
            "leave --model out, or choose another folder",
        )


def _has_other_order(before: TrainConfig, after: TrainConfig, pairs: Sequence[int]) -> bool:
    """Return True if a step has other pairs than before; moved pairs are the same.

    Args:
        pairs: the number of pairs in each source before, or none if no sources were named.
    """
    if any(getattr(before.data, name) != getattr(after.data, name) for name in ORDER):
        return True
    sources = after.data.sources
    return bool(pairs) and list(pairs) != [len(open_source(source)) for source in sources]
