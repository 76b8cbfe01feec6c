"""Requests with JSON answers, and the vectors that the same model gives without a server."""

import base64
import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import twotower
from tests.serve.plain_http import request
from twotower.arrays import Float32Array

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


class Answer(NamedTuple):
    """The status, headers and parsed body of a response."""

    status: int
    headers: dict[str, str]
    content: Any


def send(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    reply = request(url, body, headers)
    return Answer(reply.status, dict(reply.headers), reply.json())


def post(url: str, body: Any) -> Answer:
    return send(url, json.dumps(body).encode(), {"Content-Type": "application/json"})


def photo(name: str) -> bytes:
    return (PHOTOS / name).read_bytes()


def base64_photo(name: str) -> str:
    return base64.b64encode(photo(name)).decode()


def data_uri(name: str) -> str:
    return f"data:image/jpeg;base64,{base64_photo(name)}"


@functools.cache
def local_text(text: str) -> Float32Array:
    """Return text_embeds [embed_dim] of the small model."""
    return twotower.load("small").encode_text([text])[0]


@functools.cache
def local_photo(name: str) -> Float32Array:
    """Return image_embeds [embed_dim] of the small model."""
    return twotower.load("small").encode_image([PHOTOS / name])[0]


def from_base64(text: str) -> Float32Array:
    return np.frombuffer(base64.b64decode(text), "<f4")


def assert_equal_embeds(embeds: Any, expected: Float32Array) -> None:
    actual = np.asarray(embeds, np.float32)
    assert actual.shape == expected.shape
    assert abs(float(np.linalg.norm(actual)) - 1) < 1e-3
    assert float(actual @ expected) > 0.9999
