"""Names of tensors in other libraries, as tables of replacements that work in both directions.

A table is a list of (ours, theirs) regular expression replacements, applied in order, that turn our
name of a tensor into theirs. The result ends in `.T` if they store the transpose, and in `[None]`
if they have an additional leading axis of size 1, or in `[:1]` if ours is the first row of theirs,
which cannot be exported. `{q,k,v}` stands for several tensors of theirs
whose concatenation along axis 0 is ours; `kv` is twice as long as `q`.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower.errors import ModelError
from twotower.model.config import CLIPConfig
from twotower.model.graph import Shape
from twotower.model.pickles import read_pickle_weights
from twotower.model.weight_files import (
    Arrays,
    Tensors,
    as_arrays,
    expected_shapes,
    mismatch,
    read_arrays,
)

Table: TypeAlias = Sequence[tuple[str, str]]
Channels: TypeAlias = tuple[float, float, float]
Value = TypeVar("Value")
CONVERTIBLE = "choose a model of a supported architecture (twotower.model.presets)"


@dataclass(frozen=True)
class ForeignModel:
    """A model of another library.

    Attributes:
        config: its architecture as ours.
        tensors: under our names, in their own precision.
        files: its vocabulary files.
    """

    config: CLIPConfig
    tensors: Arrays
    files: tuple[Path, ...] = ()


class ForeignNames(NamedTuple):
    """The names of the tensors that make up one of ours, and the change of their shape."""

    names: list[str]
    transposed: bool
    unsqueezed: bool
    first_row: bool = False


def import_tensors(
    config: CLIPConfig,
    table: Table,
    theirs: Mapping[str, NDArray[Any]],
    source: Path,
    ignored: str = r"(?!)",
) -> Arrays:
    """Rename and reshape foreign tensors to ours.

    Args:
        ignored: a pattern for foreign names that are no weights.

    Raises:
        ModelError: a tensor is missing, unexpected, or of a wrong shape; under its foreign name.
    """
    unused = {name for name in theirs if not re.fullmatch(ignored, name)}
    ours: Arrays = {}
    for name, shape in expected_shapes(config).items():
        foreign = foreign_names(name, table)
        absent = [key for key in foreign.names if key not in theirs]
        if absent and name.endswith("num_batches_tracked"):
            ours[name] = np.array(0)  # not a weight, and missing in some exports
            continue
        if absent:
            close = difflib.get_close_matches(absent[0], unused, 1)
            hint = f" (there is {close[0]!r})" if close else ""
            raise mismatch(source, f"lacks {absent[0]!r}{hint}, which the model needs")
        unused.difference_update(foreign.names)
        ours[name] = _import_tensor([theirs[key] for key in foreign.names], foreign, shape, source)
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise mismatch(source, f"holds {min(unused)!r}{more}, which the model does not have")
    return ours


def _import_tensor(
    theirs: list[NDArray[Any]], foreign: ForeignNames, shape: Shape, source: Path
) -> NDArray[Any]:
    tensor = theirs[0] if len(theirs) == 1 else np.concatenate(theirs)
    tensor = tensor.T if foreign.transposed else tensor
    tensor = tensor[:1] if foreign.first_row else tensor
    if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
        raise mismatch(
            source,
            f"{foreign.names[0]!r} has shape {tensor.shape}, but the model needs {shape}",
        )
    return tensor.reshape(shape)


def export_tensors(table: Table, ours: Tensors) -> Arrays:
    """Rename and reshape our tensors to foreign ones."""
    theirs: Arrays = {}
    for name, tensor in as_arrays(ours).items():
        names, transposed, unsqueezed, _ = foreign_names(name, table)
        lengths = [2 if re.search(r"\bkv\b", key) else 1 for key in names]
        unit = tensor.shape[0] // sum(lengths) if tensor.ndim else 1
        ends = [unit * end for end in itertools.accumulate(lengths)]
        pieces = np.split(tensor, ends[:-1]) if len(names) > 1 else [tensor]
        for key, piece in zip(names, pieces, strict=True):
            piece = piece.T if transposed else piece
            theirs[key] = piece[None] if unsqueezed else piece
    return theirs


def foreign_names(name: str, table: Table) -> ForeignNames:
    """Return the foreign names of one of our tensors."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    transposed, unsqueezed = name.endswith(".T"), name.endswith("[None]")
    first_row = name.endswith("[:1]")
    name = name.removesuffix(".T").removesuffix("[None]").removesuffix("[:1]")
    braces = re.search(r"\{(.*)\}", name)
    choices = braces.group(1).split(",") if braces else []
    names = [name.replace(braces.group(), choice) for choice in choices] if braces else [name]
    return ForeignNames(names, transposed, unsqueezed, first_row)


def read_tensors(directory: Path, stem: str, pickled: str) -> Arrays:
    """Read the weights of a directory: `STEM.safetensors`, its shards, or the pickle `pickled`.

    Raises:
        ModelError: none of them exists, or a file cannot be read.
    """
    single, index = directory / f"{stem}.safetensors", directory / f"{stem}.safetensors.index.json"
    if single.exists():
        tensors = read_arrays(single)
    elif index.exists():
        weight_map = Settings(read_json(index).get("weight_map"), f"{index}: weight_map")
        shards = sorted({str(shard) for shard in weight_map.unread.values()})
        tensors = {k: v for shard in shards for k, v in read_arrays(directory / shard).items()}
    elif (directory / pickled).exists():
        tensors = read_pickle_weights(directory / pickled)
    else:
        raise ModelError(directory, f"holds neither {single.name} nor {pickled}", "add the weights")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing or no JSON object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(path, str(error.strerror), "copy or download it again") from None
    except ValueError as error:
        raise ModelError(path, f"not valid JSON ({error})", "copy or download it again") from None
    if not isinstance(tree, dict):
        raise ModelError(path, "not a JSON object", "copy or download it again")
    return tree


class Settings:
    """A section of a foreign configuration, in which every key has to be read.

    Attributes:
        unread: the keys that have not been read yet.
        section: its file and name, for errors.
    """

    def __init__(self, tree: Any, section: str) -> None:
        if not isinstance(tree, Mapping):
            reason = "missing" if tree is None else f"it is {tree!r}, not an object"
            raise ModelError(section, reason, "copy or download the file again")
        self.unread = dict(tree)
        self.section = section

    def pop(self, key: str, default: Any = None) -> Any:
        """Read a key of any type; return `default` if it is absent."""
        return self.unread.pop(key, default)

    def read(self, key: str, default: Value) -> Value:
        """Read a key of the type of `default`; numbers must be above 0. Raises `ModelError`."""
        value = self.unread.pop(key, default)
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise self.unsupported(key, value)
        if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
            raise self.unsupported(key, value)
        return typing.cast(Value, value)

    def side(self, key: str, default: int) -> int:
        """Read the side of a square: a number, or a pair of equal ones. Raises `ModelError`."""
        value = self.unread.get(key, default)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            self.unread[key] = value[0]
        return self.read(key, default)

    def channels(self, key: str, default: Channels) -> Channels:
        """Read three numbers, or one for all channels. Raises `ModelError`."""
        value = self.unread.pop(key, default)
        if type(value) in (int, float):
            value = (value, value, value)
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise self.unsupported(key, value)
        if not all(type(number) in (int, float) for number in value):
            raise self.unsupported(key, value)
        return (float(value[0]), float(value[1]), float(value[2]))

    def deviations(self, key: str, default: Channels) -> Channels:
        """Read standard deviations as `channels` does; none may be 0. Raises `ModelError`."""
        value = self.channels(key, default)
        if 0 in value:
            raise self.unsupported(key, value)
        return value

    def expect(self, key: str, *allowed: Value) -> Value:
        """Read a key, by default the first of `allowed`, which must be one of them.

        Raises:
            ModelError: it is not.
        """
        value = self.unread.pop(key, allowed[0])
        if value not in allowed:
            raise self.unsupported(key, value)
        return value

    def finish(self) -> None:
        """Refuse keys that were not read, since their effect would be lost."""
        if self.unread:
            raise self.unsupported(*next(iter(self.unread.items())))

    def unsupported(self, key: str, value: Any) -> ModelError:
        """Return the error for a value that `CLIP` has no equivalent of."""
        return ModelError(self.section, f"{key} is {value!r}, which is not supported", CONVERTIBLE)
