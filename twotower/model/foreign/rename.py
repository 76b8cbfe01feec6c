"""How tensors are called elsewhere: a table of replacements, read forwards and backwards.

A table is a list of (ours, theirs) regular expression replacements that turn our name into
theirs, one after the other. What comes out may end in `.T` where they keep the transpose, or in
`[None]` where they have a leading axis of one more; and `{q,k,v}` stands for several tensors of
theirs that make up one of ours, end to end along the first axis, `kv` counting double.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twotower.errors import ModelError
from twotower.model.config import CLIPConfig
from twotower.model.pickles import read_pickle_weights
from twotower.model.weights import expected_shapes, read_safetensors

Table = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Foreign:
    """A foreign model in our terms: `tensors` by our names, in the precision they came in."""

    config: CLIPConfig
    tensors: dict[str, Tensor]
    files: tuple[Path, ...] = ()  # vocabulary files that belong to it


def tensors_in(
    config: CLIPConfig,
    table: Table,
    theirs: Mapping[str, Tensor],
    source: Path,
    ignored: str = r"(?!)",
) -> dict[str, Tensor]:
    """Foreign tensors by our names and shapes.

    Args:
        ignored: a pattern for names of theirs that carry no weights.

    Raises:
        WeightsFileError: a tensor is missing, left over, or of a wrong shape; in their names.
    """
    left = {name for name in theirs if not re.fullmatch(ignored, name)}
    ours: dict[str, Tensor] = {}
    for name, shape in expected_shapes(config).items():
        names, transposed, _ = foreign_names(name, table)
        absent = [one for one in names if one not in theirs]
        if absent and name.endswith("num_batches_tracked"):
            ours[name] = torch.tensor(0)  # not a weight; some exports leave it out
            continue
        if absent:
            close = difflib.get_close_matches(absent[0], left, 1)
            hint = f" (there is {close[0]!r})" if close else ""
            raise ModelError(f"{source}: lacks {absent[0]!r}{hint}, which the model needs")
        left.difference_update(names)
        parts = [theirs[one] for one in names]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        tensor = tensor.T if transposed else tensor
        if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise ModelError(
                f"{source}: {names[0]!r} has shape {tuple(tensor.shape)}, which does not give "
                f"the {tuple(shape)} that its configuration asks for"
            )
        ours[name] = tensor.reshape(shape)
    if left:
        raise ModelError(
            f"{source}: holds {min(left)!r} and {len(left) - 1} more that the model has no place "
            "for; its configuration does not describe these weights"
        )
    return ours


def tensors_out(table: Table, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors by foreign names and in foreign shapes."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        names, transposed, unsqueezed = foreign_names(name, table)
        shares = [2 if re.search(r"\bkv\b", one) else 1 for one in names]
        unit = tensor.shape[0] // sum(shares) if tensor.ndim else 1
        parts = tensor.split([unit * share for share in shares]) if len(names) > 1 else [tensor]
        for one, part in zip(names, parts, strict=True):
            part = part.T if transposed else part
            theirs[one] = (part[None] if unsqueezed else part).contiguous()
    return theirs


def foreign_names(name: str, table: Table) -> tuple[list[str], bool, bool]:
    """([foreign names], transposed, unsqueezed) of one of our tensors."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    transposed, unsqueezed = name.endswith(".T"), name.endswith("[None]")
    name = name.removesuffix(".T").removesuffix("[None]")
    braces = re.search(r"\{(.*)\}", name)
    if not braces:
        return [name], transposed, unsqueezed
    parts = braces.group(1).split(",")
    return [name.replace(braces.group(), part) for part in parts], transposed, unsqueezed


def read_tensors(directory: Path, stem: str, pickled: str) -> dict[str, Tensor]:
    """The weights of a directory: `STEM.safetensors`, its shards, or the pickle `pickled`.

    Raises:
        WeightsFileError: none of them is there, or one cannot be read.
    """
    single, index = directory / f"{stem}.safetensors", directory / f"{stem}.safetensors.index.json"
    if single.exists():
        tensors = read_safetensors(single)
    elif index.exists():
        shards = sorted(set(read_json(index)["weight_map"].values()))
        tensors = {k: v for shard in shards for k, v in read_safetensors(directory / shard).items()}
    elif (directory / pickled).exists():
        arrays = read_pickle_weights(directory / pickled)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        raise ModelError(f"{directory}: holds neither {single.name} nor {pickled}")
    return {
        name.removeprefix("module."): one.float() if one.dtype == torch.bfloat16 else one
        for name, one in tensors.items()
    }


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ForeignError: missing, or something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: not a JSON object")
    return tree


class Settings:
    """A section of a foreign config: every key must be taken, so that none is overlooked."""

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        self.left = dict(tree)
        self.where = where

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default where it is not given."""
        return self.left.pop(key, default)

    def expect(self, key: str, *allowed: Any) -> None:
        """Take a key that must have one of these values where it is given at all."""
        value = self.left.pop(key, allowed[0])
        if value not in allowed:
            raise ModelError(
                f"{self.where}: {key} is {value!r}, which this architecture does not have"
            )

    def finish(self) -> None:
        """Refuse a key that nobody took: what it changes would be lost."""
        if self.left:
            key, value = next(iter(self.left.items()))
            raise ModelError(
                f"{self.where}: {key} is {value!r}, a setting that is not understood here"
            )
