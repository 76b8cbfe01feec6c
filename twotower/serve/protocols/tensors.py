"""Tensors of the Open Inference Protocol: binary, after the JSON part of a body, and as JSON.

Binary tensors are little-endian, in row-major order, without padding, and follow each other in the
order of their descriptions; an element of type BYTES is its length in four bytes, then its content
(Triton's "Binary Tensor Data Extension").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from twotower.arrays import Float32Array
from twotower.serve.errors import RequestError

_LENGTH = struct.Struct("<I")


def split_body(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON part of a body and its binary part.

    Args:
        header_length: the value of `Inference-Header-Content-Length`; None if all is JSON.

    Raises:
        RequestError: 400, it is no length within the body.
    """
    if header_length is None:
        return body, memoryview(b"")
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not is_number or int(header_length) > len(body):
        raise RequestError(
            400,
            f"Inference-Header-Content-Length is {header_length[:40]!r}; give the bytes of JSON "
            f"in a body of {len(body)}",
        )
    length = int(header_length)
    return body[:length], memoryview(body)[length:]


def split_tensors(content: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    """Return the binary tensors of a body by their sizes in bytes.

    Raises:
        RequestError: 400, the sizes do not add up to the content.
    """
    if sum(sizes) != len(content):
        raise RequestError(
            400, f"the binary data has {len(content)} bytes; the inputs declare {sum(sizes)}"
        )
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return [content[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def decode_bytes(content: memoryview | bytes, count: int) -> list[bytes]:
    """Return the elements of a binary tensor of type BYTES.

    Raises:
        RequestError: 400, the content does not have `count` elements.
    """
    if _LENGTH.size * count > len(content):
        raise _wrong_count(count)
    return list(_read_elements(content, count))


def _read_elements(content: memoryview | bytes, count: int) -> Iterator[bytes]:
    position = 0
    for _ in range(count):
        if position + _LENGTH.size > len(content):
            raise _wrong_count(count)
        (length,) = _LENGTH.unpack_from(content, position)
        position += _LENGTH.size
        if position + length > len(content):
            raise RequestError(400, "an element of BYTES is longer than its tensor")
        yield bytes(content[position : position + length])
        position += length
    if position != len(content):
        raise _wrong_count(count)


def _wrong_count(count: int) -> RequestError:
    return RequestError(400, f"a tensor of BYTES has other than the {count} elements of its shape")


def encode_bytes(elements: Iterable[bytes]) -> bytes:
    """Return elements as a binary tensor of type BYTES."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def decode_floats(content: memoryview | bytes, shape: Sequence[int]) -> Float32Array:
    """Return a binary tensor of type FP32.

    Raises:
        RequestError: 400, the content has another length than the shape.
    """
    expected = 4 * math.prod(shape)
    if len(content) != expected:
        raise RequestError(
            400, f"a tensor of FP32 has {len(content)} bytes; its shape needs {expected}"
        )
    return np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)


def encode_floats(values: Float32Array) -> bytes:
    """Return values as a binary tensor of type FP32."""
    return np.ascontiguousarray(values, "<f4").tobytes()


def floats_of_json(data: Any, shape: Sequence[int]) -> Float32Array:
    """Return the numbers of a tensor in JSON, nested as its shape or flat.

    Raises:
        RequestError: 400, it has other than numbers, or has another length than the shape.
    """
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise RequestError(400, "data is ragged; give a list of numbers") from None
    if values.dtype.kind not in "iuf" or not isinstance(data, list):
        raise RequestError(400, "data has other elements than numbers")
    _check_shape(values.shape, shape)
    with np.errstate(over="ignore"):
        return values.astype(np.float32).reshape(shape)


def texts_of_json(data: Any, shape: Sequence[int]) -> list[str]:
    """Return the strings of a tensor in JSON, nested as its shape [n] or [n, 1], or flat.

    Raises:
        RequestError: 400, it has other than strings, or has another length than the shape.
    """
    if not isinstance(data, list):
        raise RequestError(400, "data is no list")
    if data and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
        _check_shape((len(data), 1), shape)
    else:
        _check_shape((len(data),), shape)
    if not all(isinstance(text, str) for text in data):
        raise RequestError(400, "data of BYTES has other elements than strings")
    return data


def _check_shape(actual: Sequence[int], shape: Sequence[int]) -> None:
    """Check that data is flat or nested as its shape."""
    flat = len(actual) == 1 and actual[0] == math.prod(shape)
    if not flat and tuple(actual) != tuple(shape):
        raise RequestError(400, f"data has the shape {list(actual)}, not {list(shape)}")
