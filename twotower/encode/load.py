"""A name or a path to an `Encoder`: `load()`."""

from __future__ import annotations

import difflib
import hashlib
import os
from pathlib import Path

from twotower.encode.encoder import Encoder
from twotower.errors import ModelError

BUNDLED_NAME = "twotower-small"
BUNDLED = Path(__file__).parent.parent / "bundled"
HUB_PREFIX = "hf-hub:"
HUB_FILES = ["*.json", "*.safetensors", "*.onnx", "*.txt", "*.model", "*.bin"]


def load(
    model: str | Path | None = None, *, engine: str = "onnxruntime", threads: int | None = None
) -> Encoder:
    """An encoder for the bundled model, a model directory, or anybody's CLIP or SigLIP weights.

    Weights in a foreign form are converted once, checked against their golden vectors and kept in
    the cache (`TWOTOWER_CACHE`, by default `~/.cache/twotower`); that first time needs torch.

    Args:
        model: None or "twotower-small" for the model in the package; our directory; a transformers
            or open_clip directory; an OpenAI `.pt` archive; or `hf-hub:org/name`.
        engine: "onnxruntime", "openvino" or "torch".
        threads: CPU threads for the engine; by default all cores.

    Raises:
        ModelNotFoundError: nothing of that name, or conversion needs a package that is missing.
        ConfigError, WeightsFileError, VerificationError: something is there and it does not hold.
    """
    return Encoder(find_model(model), engine, threads)


def find_model(model: str | Path | None = None) -> Path:
    """The model directory that `load` would open, fetched and converted where needed."""
    return _convert_once(find_source(model))


def find_source(model: str | Path | None) -> Path:
    """The local file or directory that a name stands for, in whatever form it is."""
    if model is None or str(model) == BUNDLED_NAME:
        return BUNDLED
    if str(model).startswith(HUB_PREFIX):
        return _fetch(str(model).removeprefix(HUB_PREFIX))
    path = Path(model).expanduser()
    if not path.exists():
        raise ModelError(f"no model {str(model)!r}{_suggestion(path)}")
    return path


def _suggestion(path: Path) -> str:
    """What may have been meant: the bundled model, or a neighbour of the path."""
    neighbours = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, [BUNDLED_NAME, *neighbours], 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; give {BUNDLED_NAME!r}, a directory, an OpenAI .pt file or {HUB_PREFIX}org/name"


def _fetch(repository: str) -> Path:
    """The local snapshot of a hub repository, downloaded unless the hub's cache has it."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=HUB_FILES))
    except (OSError, HFValidationError) as error:  # every hub and network error is an OSError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{HUB_PREFIX}{repository}: {reason[:200]}; check the name and the network, or copy "
            "the repository to a directory and give its path"
        ) from None


def _convert_once(source: Path) -> Path:
    """`source` itself if it is our directory, else its conversion in the cache."""
    from twotower.encode.convert import convert, is_model_directory
    from twotower.errors import ModelError

    if is_model_directory(source):
        return source
    converted = _cache() / _key(source)
    if converted.exists():
        return converted
    try:
        convert(source, converted)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{source}: converting it needs the package {error.name!r} this one time: "
            "pip install 'twotower[train]'"
        ) from None
    except ModelError:
        if not converted.exists():  # else another process has just finished the same conversion
            raise
    return converted


def _cache() -> Path:
    return Path(os.environ.get("TWOTOWER_CACHE", "~/.cache/twotower")).expanduser()


def _key(source: Path) -> str:
    """Changes whenever a file of the source does (by name, size and time of change)."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((str(source.resolve()), stats)).encode()).hexdigest()
    return f"{source.name}-{digest[:16]}"
