import json

import numpy as np
import pytest

pytest.importorskip("starlette")

import twotower
from tests.serve.plain_http import Reply, multipart, request
from tests.serve.sample_pictures import BAD_PICTURES, CAT
from twotower.serve.decoding import DecoderPool
from twotower.serve.errors import RequestError
from twotower.serve.models import ServedModel, ServedModels
from twotower.serve.protocols.immich import find_model
from twotower.serve.settings import ServerSettings

MODEL = "ViT-B-32__openai"
VISUAL = {"clip": {"visual": {"modelName": MODEL}}}
TEXTUAL = {"clip": {"textual": {"modelName": MODEL, "options": {"language": "en-null"}}}}


def predict(url: str, entries: object, image: bytes | None = None, **fields: str) -> Reply:
    if entries is not None:
        fields["entries"] = entries if isinstance(entries, str) else json.dumps(entries)
    files = {} if image is None else {"image": image}
    return request(f"{url}/predict", *multipart(fields, files))


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return twotower.load("small").encode_image([CAT])[0]


def test_ping(models_url: str) -> None:
    reply = request(f"{models_url}/ping")
    assert reply.status == 200 and reply.content == b"pong"
    assert reply.headers["Content-Type"].startswith("text/plain")


def test_picture(models_url: str, cat: np.ndarray) -> None:
    answer = predict(models_url, VISUAL, CAT).json()
    assert answer.keys() == {"clip", "imageHeight", "imageWidth"}
    assert (answer["imageHeight"], answer["imageWidth"]) == (640, 640)
    assert isinstance(answer["clip"], str)  # Postgres reads it
    assert np.array(json.loads(answer["clip"])) @ cat > 0.9999


@pytest.mark.parametrize("options", [{}, {"language": "de"}, {"language": "en-null"}, None])
def test_text_of_each_version(models_url: str, options: object) -> None:
    entry = {"modelName": MODEL} | ({} if options is None else {"options": options})
    answer = predict(models_url, {"clip": {"textual": entry}}, text="ein Hund, 犬").json()
    assert answer.keys() == {"clip"}
    [expected] = twotower.load("small").encode_text("ein Hund, 犬")
    assert np.array(json.loads(answer["clip"])) @ expected > 0.9999


def test_first_form_has_a_bare_answer(models_url: str, cat: np.ndarray) -> None:
    fields = {"modelName": MODEL, "modelType": "clip"}
    vision = predict(models_url, None, CAT, **fields, options='{"mode": "vision"}')
    assert np.array(vision.json()) @ cat > 0.9999
    text = predict(models_url, None, **fields, text="a cat", options='{"mode": "text"}')
    [expected] = twotower.load("small").encode_text("a cat")
    assert np.array(text.json()) @ expected > 0.9999
    for change, status in (
        ({"modelType": "facial-recognition"}, 400),
        ({"options": "{"}, 422),
        ({"options": '{"mode": ["text"]}'}, 422),
        ({"options": '{"mode": "sound"}'}, 422),
    ):
        assert predict(models_url, None, CAT, **fields | change).status == status


@pytest.mark.parametrize(
    ("entries", "status"),
    [
        (None, 422),
        ("", 422),
        ("{", 422),
        ("[" * 100_000, 422),
        ("null", 422),
        ([], 422),
        ({}, 422),
        ({"clip": {}}, 422),
        ({"clip": None}, 422),
        ({"clip": {"visual": None}}, 422),
        ({"clip": {"visual": {}}}, 422),
        ({"clip": {"visual": {"modelName": 3}}}, 422),
        ({"clip": {"sonic": {"modelName": MODEL}}}, 422),
        ({"clip": VISUAL["clip"] | TEXTUAL["clip"]}, 422),
        ({"clip": {"visual": {"modelName": "\ud800"}}}, 422),
        ({"clip": {"visual": {"modelName": "ViT-L-14__openai"}}}, 404),
        ({"clip": {"visual": {"modelName": "unknown"}}}, 404),
        (TEXTUAL, 400),  # a picture, but no text
        ({"facial-recognition": {"detection": {"modelName": "buffalo_l"}}}, 400),
        ({"ocr": {"detection": {"modelName": "PP-OCRv5_mobile"}}}, 400),
        (VISUAL | {"ocr": {"detection": {"modelName": "PP-OCRv5_mobile"}}}, 400),
    ],
)
def test_wrong_entries(models_url: str, entries: object, status: int) -> None:
    reply = predict(models_url, entries, CAT)
    assert reply.status == status
    assert isinstance(reply.json()["detail"], str) and reply.json().keys() == {"detail"}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(models_url: str, name: str) -> None:
    reply = predict(models_url, VISUAL, BAD_PICTURES[name])
    assert reply.status == 422 and "picture" in reply.json()["detail"]
    assert request(f"{models_url}/readyz").status == 200


def test_missing_or_wrong_inputs(models_url: str) -> None:
    assert predict(models_url, VISUAL).status == 400
    assert predict(models_url, VISUAL, text="a cat").status == 400
    assert predict(models_url, TEXTUAL, text="").status == 400
    body, headers = multipart({"entries": json.dumps(VISUAL), "image": "no file"})
    assert request(f"{models_url}/predict", body, headers).status == 422
    body, headers = multipart({"entries": json.dumps(TEXTUAL)}, {"text": b"a file"})
    assert request(f"{models_url}/predict", body, headers).status == 400
    body, headers = multipart({"entries": json.dumps(VISUAL)}, {"image": CAT})
    for broken in (body[:-40], body[:100], b"", b"{}"):
        assert 400 <= request(f"{models_url}/predict", broken, headers).status < 500
    for kind in ("multipart/form-data", "application/json", "text/plain"):
        reply = request(f"{models_url}/predict", body, {"Content-Type": kind})
        assert 400 <= reply.status < 500 and "detail" in reply.json()
    fields = {f"field{number}": "" for number in range(5000)}
    assert predict(models_url, VISUAL, CAT, **fields).status == 400
    assert predict(models_url, VISUAL, CAT).status == 200


def served(*names: str) -> ServedModels:
    settings = ServerSettings()
    decoders = DecoderPool(1, seconds=1, memory_mb=100, max_pixels=100)
    encoder = twotower.load("small")
    return ServedModels([ServedModel(name, encoder, decoders, settings) for name in names])


@pytest.mark.parametrize(
    "name", ["hf-hub:immich-app/ViT-L-14__openai", "/models/ViT-L-14__openai", "ViT-L-14__openai"]
)
def test_a_model_by_its_name(name: str) -> None:
    models = served("base", name)  # whatever the length of its vectors
    assert find_model(models, "ViT-L-14__openai").name == name
    assert find_model(models, "immich-app/ViT-L-14__openai").name == name


def test_colons_are_underscores() -> None:
    assert find_model(served("base", "a:b"), "x/a_b").name == "a:b"


def test_a_single_model_stands_in_for_models_of_its_length() -> None:
    for name in ("ViT-B-32__laion2b_e16", "RN101__openai", "XLM-Roberta-Large-Vit-B-32"):
        assert find_model(served("small"), name).name == "small"
    for models, name in (
        (served("small"), "ViT-B-16-SigLIP2__webli"),
        (served("small"), "ViT-B-32-other__openai"),
        (served("small"), ""),
        (served("small", "second"), "ViT-B-32__openai"),
    ):
        with pytest.raises(RequestError) as caught:
            find_model(models, name)
        assert caught.value.status == 404 and "small (512)" in caught.value.message
