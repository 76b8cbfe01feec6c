"""`load`: an `Encoder` from a name or a path."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path

from twotower.encode.encoder import Encoder
from twotower.encode.onnx_pair import OnnxPair, graph_in
from twotower.encode.registry import BUNDLED_MODELS, DEFAULT_MODEL
from twotower.errors import ModelError
from twotower.files import cache_folder
from twotower.model.config import is_model_directory

BUNDLED = Path(__file__).parent.parent / "bundled"
HUB_PREFIX = "hf-hub:"
HUB_FILES = ["*.json", "*.safetensors", "*.onnx", "*.txt", "*.model", "*.bin"]


def load(
    model: str | Path | None = None, *, engine: str = "onnxruntime", threads: int | None = None
) -> Encoder:
    """Load a bundled model, a model directory, or CLIP or SigLIP weights in another format.

    Other formats are converted once, checked against golden vectors and kept in the cache
    (`TWOTOWER_CACHE`, by default `~/.cache/twotower`).

    Args:
        model: "twotower-base" (short "base"), "twotower-small" ("small") or None for the default of
            these two; a model directory; a transformers or open_clip directory; an OpenAI `.pt`
            archive; a folder with a pair of ONNX graphs, or both with a comma between; or
            `hf-hub:org/name`.
        engine: "onnxruntime", "openvino" or "torch".
        threads: CPU threads of the engine; by default all cores.

    Raises:
        ModelError: the model does not exist, cannot be read, or its conversion needs a package
            that is not installed.
    """
    return Encoder(find_model(model), engine, threads)


def find_model(model: str | Path | None = None) -> Path:
    """Return the model directory that `load` opens; download and convert it if necessary."""
    source = find_source(model)
    if isinstance(source, Path) and is_model_directory(source):
        return source
    return _converted(source)


def find_source(model: str | Path | None) -> Path | OnnxPair:
    """Return the file or directory of a model in any format; download it if necessary."""
    model = DEFAULT_MODEL if model is None else model
    halves = str(model).split(",")
    if len(halves) == 2 and not Path(model).exists():
        return OnnxPair(*(graph_in(_find_file(half.strip())) for half in halves))
    return _find_file(model)


def _find_file(model: str | Path) -> Path:
    """Return the file or directory of a name or path; download it if necessary."""
    if name := bundled_name(model):
        return BUNDLED / BUNDLED_MODELS[name]
    if str(model).startswith(HUB_PREFIX):
        return _download(str(model).removeprefix(HUB_PREFIX))
    path = Path(model).expanduser()
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


def _download(repository: str) -> Path:
    """Return the local snapshot of a hub repository; download it unless it is in the cache."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=HUB_FILES))
    except (OSError, HFValidationError) as error:  # hub and network errors are OSErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{HUB_PREFIX}{repository}",
            reason[:200],
            "check the name and the network, or copy the repository to a directory and give its "
            "path",
        ) from None


def _converted(source: Path | OnnxPair) -> Path:
    """Return the conversion of a model in the cache; convert it if it is not there."""
    from twotower.encode.convert import convert

    destination = cache_folder() / _key(source)
    if destination.exists():
        return destination
    try:
        convert(source, destination)
    except ModelError as error:
        # unless another process has just finished the same conversion
        if error.subject != str(destination) or not destination.exists():
            raise
    return destination


def _key(source: Path | OnnxPair) -> str:
    """Return a name that changes with the name, size or modification time of a file."""
    paths = (source,) if isinstance(source, Path) else source
    files = [file for path in paths for file in _files_in(path)]
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    location = "+".join(str(path.resolve()) for path in paths)
    digest = hashlib.sha256(repr((location, stats)).encode()).hexdigest()
    return f"{paths[0].name}-{digest[:16]}"


def _files_in(path: Path) -> list[Path]:
    """Return a file, or the files in a folder and its folders."""
    return sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
