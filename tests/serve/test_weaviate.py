import base64
import json

import numpy as np
import pytest

pytest.importorskip("starlette")

import twotower
from tests.serve.plain_http import post_json, request
from tests.serve.sample_pictures import BAD_PICTURES, CAT, PHOTOS

DOG = (PHOTOS / "dog.jpg").read_bytes()


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_health_and_meta(models_url: str) -> None:
    for name in ("live", "ready"):
        reply = request(f"{models_url}/.well-known/{name}")
        assert reply.status == 204 and reply.content == b""
    assert request(f"{models_url}/meta").json() == {"model": "twotower-small", "embed_dim": 512}


def test_texts_and_pictures_in_order(models_url: str) -> None:
    body = {"texts": ["a dog", "", "a cat"], "images": [encode(DOG), encode(CAT)]}
    answer = post_json(f"{models_url}/vectorize", body).json()
    model = twotower.load("small")
    texts, images = np.array(answer["textVectors"]), np.array(answer["imageVectors"])
    assert ((texts * model.encode_text(body["texts"])).sum(1) > 0.9999).all()
    assert ((images * model.encode_image([DOG, CAT])).sum(1) > 0.9999).all()


@pytest.mark.parametrize("absent", [{}, {"images": None}, {"images": []}])
def test_either_field_can_be_absent(models_url: str, absent: dict[str, object]) -> None:
    answer = post_json(f"{models_url}/vectorize", {"texts": ["a cat"]} | absent).json()
    assert len(answer["textVectors"]) == 1 and answer["imageVectors"] == []


def test_nothing_to_vectorize(models_url: str) -> None:
    assert post_json(f"{models_url}/vectorize", {}).json() == {
        "textVectors": [],
        "imageVectors": [],
    }


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(models_url: str, name: str) -> None:
    images = [encode(CAT), encode(BAD_PICTURES[name])]
    reply = post_json(f"{models_url}/vectorize", {"images": images})
    assert reply.status in (400, 422) and reply.json()["error"].startswith("images[1]: ")
    assert request(f"{models_url}/.well-known/ready").status == 204


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"texts": "a"}',
        b'{"texts": [1]}',
        b'{"texts": ["\\ud800"]}',
        b'{"images": ["?"]}',
        b'{"images": ["http://127.0.0.1/cat.jpg"]}',
        json.dumps({"texts": ["a"] * 2049}).encode(),
        json.dumps({"texts": ["a" * 20_001]}).encode(),
    ],
)
def test_wrong_bodies(models_url: str, body: bytes) -> None:
    reply = request(f"{models_url}/vectorize", body)
    assert 400 <= reply.status < 500
    assert reply.json().keys() == {"error"} and isinstance(reply.json()["error"], str)
