"""`load`: an `Encoder` from a name or a path."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from twotower.encode.encoder import Encoder
from twotower.encode.registry import BUNDLED_MODELS, DEFAULT_MODEL
from twotower.errors import ModelError
from twotower.files import cache_folder, expand_home
from twotower.model.config import is_model_directory

BUNDLED = Path(__file__).parent.parent / "bundled"
HUB_PREFIX = "hf-hub:"
DESCRIPTIONS = ["*.json", "*.txt", "*.model"]  # configurations and vocabularies of a repository


def load(
    model: str | Path | None = None, *, engine: str = "onnxruntime", threads: int | None = None
) -> Encoder:
    """Load a bundled model, a model directory, or CLIP or SigLIP weights in another format.

    Other formats are converted once, checked against golden vectors and kept in the cache
    (`TWOTOWER_CACHE`, by default `~/.cache/twotower`); the conversion needs torch.

    Args:
        model: "twotower-base" (short "base"), "twotower-small" ("small") or None for the default of
            these two; a model directory; a transformers or open_clip directory; an OpenAI `.pt`
            archive; or `hf-hub:org/name`, with `@revision` for a branch, tag or commit.
        engine: "onnxruntime", "openvino" or "torch".
        threads: CPU threads of the engine; by default all cores.

    Raises:
        ModelError: the model does not exist, cannot be read, or its conversion needs a package
            that is not installed.
        PathError: it must be converted, and the folder of the cache is unknown.
    """
    return Encoder(find_model(model), engine, threads)


def find_model(model: str | Path | None = None) -> Path:
    """Return the model directory that `load` opens; download and convert it if necessary."""
    source = find_source(model)
    return source if is_model_directory(source) else _converted(source)


def find_source(model: str | Path | None) -> Path:
    """Return the file or directory of a model in any format; download it if necessary."""
    model = DEFAULT_MODEL if model is None else model
    if name := bundled_name(model):
        return BUNDLED / BUNDLED_MODELS[name]
    if str(model).startswith(HUB_PREFIX):
        return _download(str(model).removeprefix(HUB_PREFIX))
    path = expand_home(model)
    if not path.exists():
        raise ModelError(str(model), "no such model", _suggestion(path))
    return path


def bundled_name(model: str | Path) -> str | None:
    """Return the full name of a bundled model from its full or short name; None for others."""
    return next(
        (name for name, short in BUNDLED_MODELS.items() if str(model) in (name, short)), None
    )


def _suggestion(path: Path) -> str:
    """Suggest a bundled model or a file beside `path` if its name is similar."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    names = [name for pair in BUNDLED_MODELS.items() for name in pair]
    close = difflib.get_close_matches(path.name, [*names, *siblings], 1)
    if close:
        return f"did you mean {close[0]!r}?"
    short = ", ".join(map(repr, BUNDLED_MODELS.values()))
    return f"give {short}, a directory, an OpenAI .pt file or {HUB_PREFIX}org/name"


def _download(name: str) -> Path:
    """Return the local snapshot of a hub repository, with what a model needs of it.

    Of several files of the same weights one is fetched: safetensors, or a pickle if there are none.

    Args:
        name: "organisation/repository" or "organisation/repository@revision".
    """
    folder = _snapshot(name, DESCRIPTIONS)
    if is_model_directory(folder):
        return _snapshot(name, [*DESCRIPTIONS, "*.safetensors", "*.onnx"])
    stem, pickle = "model", "pytorch_model.bin"
    if (folder / "open_clip_config.json").exists():
        stem, pickle = "open_clip_model", "open_clip_pytorch_model.bin"
    folder = _snapshot(name, [*DESCRIPTIONS, f"{stem}.safetensors", f"{stem}-*.safetensors"])
    if not any(folder.glob(f"{stem}*.safetensors")):
        folder = _snapshot(name, [*DESCRIPTIONS, pickle])
    return folder


def _snapshot(name: str, patterns: list[str]) -> Path:
    """Return the local snapshot of a hub repository; download the files of `patterns`.

    Without a network it is used as it is in the cache: other programs leave snapshots there that
    lack files which they did not need.
    """
    import huggingface_hub

    repository, _, revision = name.partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=patterns
            )
        )
    except Exception as error:  # also those of its HTTP library, and of answers that are not JSON
        if snapshot := getattr(error, "snapshot_path", None):  # of `IncompleteSnapshotError`
            return Path(snapshot)
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, OSError) or not reason:
            reason = f"{type(error).__name__}: {reason}"
        raise ModelError(
            f"{HUB_PREFIX}{name}",
            reason[:200],
            "check the name and the network, or copy the repository to a directory and give its "
            "path",
        ) from None


def _converted(source: Path) -> Path:
    """Return the conversion of a model in the cache; convert it if it is not there."""
    from twotower.encode.convert import convert

    destination = cache_folder() / _key(source)
    if destination.exists():
        return destination
    try:
        convert(source, destination)
    except ModuleNotFoundError as error:
        raise ModelError(
            source,
            f"its conversion needs the package {error.name!r}",
            "pip install 'twotower[train]' (only for the conversion)",
        ) from None
    except ModelError as error:
        # unless another process has just finished the same conversion
        if error.subject != str(destination) or not destination.exists():
            raise
    return destination


def _key(source: Path) -> str:
    """Return a name that changes with the name, size or modification time of a file."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    digest = hashlib.sha256(repr((str(source.resolve()), stats)).encode()).hexdigest()
    return f"{source.name}-{digest[:16]}"
