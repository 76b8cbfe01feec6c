import math

import numpy as np
import pytest

pytest.importorskip("starlette")

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from twotower.serve.errors import RequestError
from twotower.serve.protocols.tensors import (
    decode_bytes,
    decode_floats,
    encode_bytes,
    encode_floats,
    floats_of_json,
    split_body,
    split_tensors,
    texts_of_json,
)

SHAPES = st.lists(st.integers(0, 5), max_size=3)
ELEMENTS = st.lists(st.binary(max_size=20), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=12,
)


@given(ELEMENTS)
def test_bytes_round_trip(elements: list[bytes]) -> None:
    assert decode_bytes(encode_bytes(elements), len(elements)) == elements


@given(ELEMENTS, st.integers(0, 10))
def test_bytes_need_the_count_of_their_shape(elements: list[bytes], count: int) -> None:
    content = encode_bytes(elements)
    if count == len(elements):
        return
    with pytest.raises(RequestError) as caught:
        decode_bytes(content, count)
    assert caught.value.status == 400


@given(st.binary(max_size=64), st.integers(0, 10**12))
def test_malformed_bytes(content: bytes, count: int) -> None:
    """Any content is decoded without loss or refused."""
    try:
        elements = decode_bytes(memoryview(content), count)
    except RequestError as error:
        assert error.status == 400
    else:
        assert len(elements) == count and encode_bytes(elements) == content


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=4)))
def test_floats_round_trip(values: np.ndarray) -> None:
    decoded = decode_floats(encode_floats(values), values.shape)
    np.testing.assert_array_equal(decoded, values)
    assert decoded.dtype == np.float32


@given(st.binary(max_size=64), SHAPES)
def test_malformed_floats(content: bytes, shape: list[int]) -> None:
    try:
        values = decode_floats(content, shape)
    except RequestError as error:
        assert error.status == 400 and len(content) != 4 * math.prod(shape)
    else:
        assert list(values.shape) == shape and encode_floats(values) == content


def test_floats_are_little_endian_and_row_major() -> None:
    values = np.array([[1, 2], [3, 4]], np.float32)
    content = bytes.fromhex("0000803f 00000040 00004040 00008040")
    assert encode_floats(values) == encode_floats(np.asfortranarray(values)) == content
    assert decode_floats(content, [2, 2]).tolist() == values.tolist()


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(max_dims=4, max_side=4),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_json_floats_nested_or_flat(values: np.ndarray) -> None:
    for data in (values.tolist(), values.ravel().tolist()):
        np.testing.assert_array_equal(floats_of_json(data, values.shape), values)


@settings(max_examples=300)
@given(JSON, SHAPES)
def test_any_json_is_read_or_refused(data: object, shape: list[int]) -> None:
    for read in (floats_of_json, texts_of_json):
        try:
            values = read(data, shape)
        except RequestError as error:
            assert error.status == 400
        else:
            assert isinstance(data, list) and np.size(values) == math.prod(shape)


def test_json_numbers_are_not_converted_from_other_types() -> None:
    for data in (["1"], [True, False], [None], [1, "2"], "12", {"0": 1}, [[1, 2], [3]], [10**400]):
        with pytest.raises(RequestError):
            floats_of_json(data, [len(data)])
    for data in ([1], [None], [["a", "b"]], "a", [["a"], "b"]):
        with pytest.raises(RequestError):
            texts_of_json(data, [len(data)])
    assert texts_of_json([["a"], ["b"]], [2, 1]) == texts_of_json(["a", "b"], [2, 1]) == ["a", "b"]


@given(st.binary(max_size=20), st.text(max_size=6) | st.integers(-3, 30).map(str) | st.none())
def test_split_body(body: bytes, header_length: str | None) -> None:
    try:
        header, content = split_body(body, header_length)
    except RequestError as error:
        assert error.status == 400 and header_length is not None
    else:
        assert header + bytes(content) == body
        assert len(header) == (len(body) if header_length is None else int(header_length))


@given(st.lists(st.binary(max_size=9)), st.integers(-2, 2))
def test_split_tensors(tensors: list[bytes], missing: int) -> None:
    sizes = [len(tensor) for tensor in tensors]
    content = b"".join(tensors)
    assert list(map(bytes, split_tensors(memoryview(content), sizes))) == tensors
    if missing:
        with pytest.raises(RequestError):
            split_tensors(memoryview(content), [*sizes, max(missing, 1)])


def test_sizes_beyond_64_bits() -> None:
    with pytest.raises(RequestError):
        split_tensors(memoryview(b"abc"), [2**63, 2**63])
