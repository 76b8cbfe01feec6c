"""Weights from torch's pickle files, without executing anything in them.

A pickle is a program that can call any function of any module. This reader accepts the dozen names
that tensors consist of, replaces each with a harmless stand-in, and refuses all others. Of a
TorchScript archive it reads the attributes and not the code.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import ModelError, UnsafePickleError


def read_pickle_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read all tensors of a `.pt`, `.pth` or `.bin` file, which may be a TorchScript archive.

    The weights may be in a nested dictionary ("state_dict", "model", ...); of a training
    checkpoint, the state of the optimizer is not read, and a moving average only if there are no
    plain weights. Values other than tensors are skipped. bfloat16 is converted to float32, which
    is exact.

    Raises:
        UnsafePickleError: the file calls a function that weights do not need.
        ModelError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reader = _Archive(path, archive)
            tree = reader.load()
            tensors = dict(_walk(_open_nested(tree), ""))
            if not tensors:
                raise ModelError(path, "holds no tensors", "give a weights file")
            return {name: reader.read_tensor(tensor) for name, tensor in tensors.items()}
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(path, str(error.strerror or error), "check the file") from None
    except zipfile.BadZipFile as error:
        raise ModelError(
            path,
            f"not a complete torch file ({error}; they are zip archives since torch 1.6)",
            "copy or download it again, or save it with a current torch",
        ) from None
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise ModelError(
            path,
            f"damaged ({type(error).__name__}: {str(error)[:100]})",
            "copy or download it again",
        ) from None


@dataclass(frozen=True)
class _Storage:
    """The numbers of a tensor in the archive, not read yet."""

    member: str
    dtype: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Record:
    """Stand-in for an object of a class that is not loaded: keeps its attributes, does nothing."""

    def __new__(cls, *_: Any) -> _Record:
        record = super().__new__(cls)
        record.attributes = {}
        return record

    attributes: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes.update(state)


# torch's names of element types, and numpy's ("bf16" has no numpy type).
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


# Keys of checkpoints that hold the weights, in this order; the last ones hold moving averages.
WEIGHT_KEYS = ("state_dict", "model", "module", "weights", "state_dict_ema", "model_ema", "ema")


class _Archive:
    """A torch zip archive: `NAME/data.pkl` and `NAME/data/0`, `NAME/data/1`, ..."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self.archive = archive
        pickles = [member for member in archive.namelist() if member.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ModelError(
                path, "a zip archive, but not one of torch's (no data.pkl)", "give a torch file"
            )
        self.root = pickles[0].removesuffix("data.pkl")
        if self.root + "byteorder" in archive.namelist():
            order = archive.read(self.root + "byteorder")
            if order != b"little":
                raise ModelError(
                    path, f"written in {order!r} byte order", "save it on a little-endian machine"
                )

    def load(self) -> Any:
        return _Unpickler(io.BytesIO(self.read(self.root + "data.pkl")), self).load()

    def read(self, member: str) -> bytes:
        """Read a member and verify its checksum."""
        if self.archive.getinfo(member).compress_type != zipfile.ZIP_STORED:  # a zip bomb
            raise ModelError(
                self.path, f"{member} is compressed, which torch never does", "download it again"
            )
        return self.archive.read(member)

    def storage(self, identity: Any) -> _Storage:
        """Parse torch's ("storage", type, key, location, size)."""
        _, dtype, key, _, size = identity
        return _Storage(f"{self.root}data/{key}", str(dtype), int(size))

    def read_tensor(self, tensor: _Tensor) -> NDArray[Any]:
        """Return a copy of the elements of a tensor."""
        storage, offset = tensor.storage, tensor.offset
        shape, stride = tensor.shape, tensor.stride
        raw = self.read(storage.member)
        dtype = np.dtype("<u2" if storage.dtype == "bf16" else storage.dtype)
        numbers = np.frombuffer(raw, dtype)
        reach = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1
        if min((0, offset, *shape, *stride)) < 0 or (0 not in shape and reach > len(numbers)):
            raise ModelError(
                self.path,
                f"a tensor of shape {shape} does not fit its {len(numbers)} numbers",
                "copy or download it again",
            )
        if 0 in shape:
            return np.zeros(shape, np.float32 if storage.dtype == "bf16" else dtype)
        steps = [step * dtype.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
        if storage.dtype == "bf16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.copy()


class _Unpickler(pickle.Unpickler):
    """Unpickler that imports nothing."""

    def __init__(self, file: io.BytesIO, archive: _Archive) -> None:
        super().__init__(file, encoding="utf-8")
        self.archive = archive
        # a new class for each file, because a pickle can set attributes of a class
        self.record = type("_Record", (_Record,), {})

    def persistent_load(self, identity: Any) -> _Storage:
        return self.archive.storage(identity)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module.startswith("__torch__"):
            return self.record
        stand_in = self._stand_ins().get((module, name))
        if stand_in is None:
            raise UnsafePickleError(
                self.archive.path,
                f"refused, because it calls {module}.{name}, which weights do not need",
                "take the model from a source you trust, as safetensors",
            )
        return stand_in

    def _stand_ins(self) -> dict[tuple[str, str], Callable[..., Any]]:
        return {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *items: _Tensor(*items[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): lambda *_: None,
            ("torch", "device"): lambda *_: None,
            ("torch.jit._pickle", "build_intlist"): list,
            ("torch.jit._pickle", "build_doublelist"): list,
            ("torch.jit._pickle", "build_boollist"): list,
            ("torch.jit._pickle", "build_tensorlist"): list,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
        }


def _open_nested(tree: Any) -> Any:
    """Return the dictionary of weights of a checkpoint such as {"epoch": 3, "model": {...}}."""
    while isinstance(tree, dict) and not _has_arrays(tree):
        inner = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
        usual = [key for key in WEIGHT_KEYS if key in inner]
        if not usual and len(inner) != 1:
            return tree
        tree = inner[usual[0] if usual else next(iter(inner))]
    return tree


def _has_arrays(tree: dict[Any, Any]) -> bool:
    return any(isinstance(value, _Tensor) for value in tree.values())


def _walk(tree: Any, prefix: str) -> Iterator[tuple[str, _Tensor]]:
    """Yield (dotted name, tensor) of a state dict, or of a TorchScript module's attributes."""
    items = tree.attributes if isinstance(tree, _Record) else tree
    if not isinstance(items, dict):
        return
    for key, value in items.items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, _Record):
            yield from _walk(value, f"{prefix}{key}.")
