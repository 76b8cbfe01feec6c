"""`load`: an `Encoder` from a name or a path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from twotower.encode.download import HUB_PREFIX, download
from twotower.encode.encoder import Encoder
from twotower.encode.onnx_pair import OnnxPair, graph_in
from twotower.encode.registry import (
    BUNDLED_MODELS,
    DEFAULT_MODEL,
    bundled_name,
    named_model,
    similar_name,
)
from twotower.errors import ModelError
from twotower.files import cache_folder, expand_home
from twotower.model.config import is_model_directory

BUNDLED = Path(__file__).parent.parent / "bundled"


def load(
    model: str | Path | None = None,
    *,
    engine: str = "onnxruntime",
    threads: int | None = None,
    arch: str | None = None,
) -> Encoder:
    """Load a bundled model, a model directory, or CLIP or SigLIP weights in another format.

    Other formats are converted once, checked against golden vectors and kept in the cache
    (`TWOTOWER_CACHE`, by default `~/.cache/twotower`).

    Args:
        model: "twotower-base" (short "base"), "twotower-small" ("small") or None for the default of
            these two; a name that `twotower models` lists; a model directory; a transformers,
            open_clip or sentence-transformers directory; an OpenAI `.pt` archive; bare weights of
            open_clip; a folder with a pair of ONNX graphs, or both with a comma between; or
            `hf-hub:org/name`, with `@revision` for a commit, branch or tag.
        engine: "onnxruntime", "openvino" or "torch".
        threads: CPU threads of the engine; by default all cores.
        arch: the architecture of bare weights, by open_clip's name, such as "ViT-B-32-quickgelu".

    Raises:
        ModelError: the model does not exist, cannot be read, or its conversion needs a package
            that is not installed.
        PathError: it must be converted, and the folder of the cache is unknown.
    """
    return Encoder(find_model(model, arch), engine, threads)


def find_model(model: str | Path | None = None, arch: str | None = None) -> Path:
    """Return the model directory that `load` opens; download and convert it if necessary."""
    source = find_source(model)
    if isinstance(source, Path) and is_model_directory(source):
        if arch is not None:
            raise ModelError(source, "has an architecture of its own", "leave out --arch")
        return source
    return _converted(source, arch)


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
        repository, _, revision = str(model).removeprefix(HUB_PREFIX).partition("@")
        return download(repository, revision or None)
    path = expand_home(model)
    if path.exists():
        return path
    if named := named_model(model):
        return download(named.hub, named.revision, named.sha256, keep_revision=True)
    raise ModelError(str(model), "no such model", _suggestion(path))


def _suggestion(path: Path) -> str:
    """Suggest a named model or a file beside `path` if its name is similar."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    if close := similar_name(path.name, siblings):
        return f"did you mean {close!r}?"
    short = ", ".join(map(repr, BUNDLED_MODELS.values()))
    return (
        f"give {short}, a name of `twotower models`, a directory, an OpenAI .pt file or "
        f"{HUB_PREFIX}org/name"
    )


def _converted(source: Path | OnnxPair, arch: str | None) -> Path:
    """Return the conversion of a model in the cache; convert it if it is not there."""
    from twotower.encode.convert import convert

    destination = cache_folder() / _key(source, arch)
    if destination.exists():
        return destination
    try:
        convert(source, destination, arch=arch)
    except ModelError as error:
        # unless another process has just finished the same conversion
        if error.subject != str(destination) or not destination.exists():
            raise
    return destination


def _key(source: Path | OnnxPair, arch: str | None) -> str:
    """Return a name that changes with the name, size or modification time of a file."""
    paths = (source,) if isinstance(source, Path) else source
    files = [file for path in paths for file in _files_in(path)]
    stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    location = "+".join(str(path.resolve()) for path in paths)
    identity = (location, stats, *([arch] if arch else []))
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()
    return f"{paths[0].name}-{digest[:16]}"


def _files_in(path: Path) -> list[Path]:
    """Return a file, or the files in a folder and its folders."""
    return sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
