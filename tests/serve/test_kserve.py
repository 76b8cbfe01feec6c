import base64
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

import twotower
from tests.serve.plain_http import Reply, post_json, request
from tests.serve.sample_pictures import BAD_PICTURES, CAT, PHOTOS
from twotower.serve.protocols.tensors import encode_bytes

DOG = (PHOTOS / "dog.jpg").read_bytes()
HEADER = "Inference-Header-Content-Length"
TEXTS = ["a cat", "ein Hund, 犬"]


def text_input(texts: list[Any], **changes: Any) -> dict[str, Any]:
    shape = [len(texts)]
    return {"name": "text", "shape": shape, "datatype": "BYTES", "data": texts} | changes


def binary_input(name: str, content: bytes, rows: int, **changes: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": len(content)}
    tensor = {"name": name, "shape": [rows, 1], "datatype": "BYTES", "parameters": parameters}
    return tensor | changes


def infer(url: str, content: dict[str, Any], payload: bytes = b"") -> Reply:
    header = json.dumps(content).encode()
    headers = {HEADER: str(len(header))} if payload else {}
    return request(f"{url}/v2/models/small/infer", header + payload, headers)


def embeds_of(reply: Reply, index: int = 0) -> np.ndarray:
    assert reply.status == 200, reply.content
    output = reply.json()["outputs"][index]
    return np.array(output["data"]).reshape(output["shape"])


def cosines(embeds: np.ndarray, expected: np.ndarray) -> np.ndarray:
    assert embeds.shape == expected.shape
    return (embeds * expected).sum(1)


def test_metadata(models_url: str) -> None:
    assert "binary_tensor_data" in request(f"{models_url}/v2").json()["extensions"]
    for state in ("live", "ready"):
        assert request(f"{models_url}/v2/health/{state}").status == 200
    name = "twotower-small"
    for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1", "/v2/models/small"):
        metadata = request(models_url + path).json()
        assert metadata["name"] == name and metadata["versions"] == ["1"]
        assert [tensor["name"] for tensor in metadata["inputs"]] == [
            "text",
            "image",
            "pixel_values",
        ]
        assert request(f"{models_url}{path}/ready").json() == {"name": name, "ready": True}
        config = request(f"{models_url}{path}/config").json()
        assert config["output"][0] == {
            "name": "text_embeds",
            "data_type": "TYPE_FP32",
            "dims": [512],
        }
    [model] = request(f"{models_url}/v2/repository/index", b"").json()
    assert model == {"name": name, "version": "1", "state": "READY", "reason": ""}


def test_wrong_models_and_versions(models_url: str) -> None:
    for path in (
        "/other",
        "/small/versions/2",
        "/small/versions/2/ready",
        "/a/b/config",
        "/x/infer",
    ):
        reply = request(f"{models_url}/v2/models{path}")
        assert reply.status == 404 and isinstance(reply.json()["error"], str)
    reply = post_json(f"{models_url}/v2/models/other/infer", {"inputs": [text_input(["a"])]})
    assert reply.status == 404 and "twotower-small" in reply.json()["error"]


@pytest.mark.parametrize("nested", [False, True])
def test_texts_in_json(models_url: str, nested: bool) -> None:
    data = [[text] for text in TEXTS] if nested else TEXTS
    reply = infer(models_url, {"id": "7", "inputs": [text_input(data, shape=[2, 1])]})
    assert HEADER not in reply.headers
    answer = reply.json()
    assert answer["model_name"] == "twotower-small" and answer["id"] == "7"
    assert answer["model_version"] == "1" and answer["outputs"][0]["name"] == "text_embeds"
    assert (cosines(embeds_of(reply), twotower.load("small").encode_text(TEXTS)) > 0.9999).all()


def test_pictures_in_base64(models_url: str) -> None:
    data = [base64.b64encode(content).decode() for content in (CAT, DOG)]
    reply = infer(models_url, {"inputs": [text_input(data, name="image")]})
    expected = twotower.load("small").encode_image([CAT, DOG])
    assert (cosines(embeds_of(reply), expected) > 0.9999).all()


def test_binary_inputs_and_outputs_in_order(models_url: str) -> None:
    """Two tensors, answered in the order of `outputs`: one binary, one in JSON."""
    images = encode_bytes([DOG, CAT])
    texts = encode_bytes(text.encode() for text in TEXTS)
    content = {
        "inputs": [binary_input("image", images, 2), binary_input("text", texts, 2)],
        "outputs": [
            {"name": "text_embeds"},
            {"name": "image_embeds", "parameters": {"binary_data": False}},
        ],
        "parameters": {"binary_data_output": True},
    }
    reply = infer(models_url, content, images + texts)
    assert reply.status == 200, reply.content
    length = int(reply.headers[HEADER])
    answer, payload = json.loads(reply.content[:length]), reply.content[length:]
    text, image = answer["outputs"]
    assert (text["name"], image["name"]) == ("text_embeds", "image_embeds")
    assert text["parameters"] == {"binary_data_size": len(payload)} and "data" not in text
    model = twotower.load("small")
    text_embeds = np.frombuffer(payload, "<f4").reshape(text["shape"])
    assert (cosines(text_embeds, model.encode_text(TEXTS)) > 0.9999).all()
    image_embeds = np.array(image["data"]).reshape(image["shape"])
    assert (cosines(image_embeds, model.encode_image([DOG, CAT])) > 0.9999).all()


def test_pixel_values(models_url: str) -> None:
    model = twotower.load("small")
    pixels = np.stack([model.preprocess(CAT), model.preprocess(DOG)])
    payload = pixels.astype("<f4").tobytes()
    tensor = binary_input("pixel_values", payload, 2, shape=list(pixels.shape), datatype="FP32")
    embeds = embeds_of(infer(models_url, {"inputs": [tensor]}, payload))
    assert (cosines(embeds, model.encode_pixels(pixels)) > 0.9999).all()
    flat = pixels[:1].round(3).ravel().tolist()
    tensor = {"name": "pixel_values", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": flat}
    assert (cosines(embeds_of(infer(models_url, {"inputs": [tensor]})), embeds[:1]) > 0.999).all()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests(models_url: str, encoding: str) -> None:
    payload = encode_bytes([b"a cat"])
    header = json.dumps({"inputs": [binary_input("text", payload, 1)]}).encode()
    compress = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]
    headers = {HEADER: str(len(header)), "Content-Encoding": encoding}
    reply = request(f"{models_url}/v2/models/small/infer", compress(header + payload), headers)
    assert (cosines(embeds_of(reply), twotower.load("small").encode_text(["a cat"])) > 0.9999).all()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"inputs": []},
        {"inputs": "text"},
        {"inputs": [None]},
        {"inputs": [text_input(["a"], name="other")]},
        {"inputs": [text_input(["a"], datatype="FP32")]},
        {"inputs": [text_input(["a"], shape=[2])]},
        {"inputs": [text_input(["a"], shape=[])]},
        {"inputs": [text_input(["a"], shape=[1, 1, 1])]},
        {"inputs": [text_input(["a"], shape=[-1])]},
        {"inputs": [text_input(["a"], shape=[True])]},
        {"inputs": [text_input(["a"], shape=[2**70])]},
        {"inputs": [text_input([], shape=[0])]},
        {"inputs": [text_input([1])]},
        {"inputs": [text_input([""])]},
        {"inputs": [text_input(["\ud800"])]},
        {"inputs": [text_input(["a"] * 2049)]},
        {"inputs": [text_input(["a"], data=None)]},
        {"inputs": [text_input(["a"], data="a")]},
        {"inputs": [text_input(["a"]), text_input(["b"])]},
        {"inputs": [text_input(["a"], parameters={"binary_data_size": 5})]},
        {"inputs": [text_input(["a"], parameters={"binary_data_size": -1})]},
        {"inputs": [text_input(["a"], parameters={"binary_data_size": "5"})]},
        {"inputs": [text_input(["a"], data=None, parameters={"shared_memory_region": "r"})]},
        {"inputs": [text_input(["a"])], "outputs": [{"name": "image_embeds"}]},
        {"inputs": [text_input(["a"])], "outputs": [{"name": "text_embeds"}] * 2},
        {
            "inputs": [text_input(["a"])],
            "outputs": [{"name": "text_embeds", "parameters": {"classification": 3}}],
        },
        {"inputs": [text_input(["a"])], "parameters": {"binary_data_output": "yes"}},
        {"inputs": [text_input(["a"])], "id": 7},
        {"inputs": [text_input(["?"], name="image")]},
        {"inputs": [text_input(["http://127.0.0.1/a.jpg"], name="image")]},
        {
            "inputs": [
                text_input(["a"], name="image"),
                text_input([0], name="pixel_values", datatype="FP32"),
            ]
        },
        {"inputs": [text_input([0], name="pixel_values", datatype="FP32")]},
        {
            "inputs": [
                text_input(["0"], name="pixel_values", datatype="FP32", shape=[1, 3, 224, 224])
            ]
        },
    ],
)
def test_wrong_requests(models_url: str, content: dict[str, Any]) -> None:
    reply = infer(models_url, content)
    assert reply.status in (400, 422), reply.content
    assert reply.json().keys() == {"error"} and isinstance(reply.json()["error"], str)


def test_wrong_binary_requests(models_url: str) -> None:
    payload = encode_bytes([b"a cat"])
    good = {"inputs": [binary_input("text", payload, 1)]}
    header = json.dumps(good).encode()
    url = f"{models_url}/v2/models/small/infer"
    assert request(url, header + payload, {HEADER: str(len(header))}).status == 200
    for length in ("", "x", "-1", "1e3", "99999", "9" * 5000, "²", str(len(header) - 1), "0"):
        reply = request(url, header + payload, {HEADER: length.encode().decode("latin-1")})
        assert reply.status == 400 and isinstance(reply.json()["error"], str), length
    no_header = request(url, header + payload)
    assert no_header.status == 400 and HEADER in no_header.json()["error"]
    for wrong in (payload[:-1], payload + b"x", b"\xff\xff\xff\xff" + payload[4:], b"x" * 9):
        reply = request(url, header + wrong, {HEADER: str(len(header))})
        assert reply.status == 400, wrong
    for rows in (2, 0):
        tensor = binary_input("text", payload, rows)
        assert infer(models_url, {"inputs": [tensor]}, payload).status == 400
    no_text = encode_bytes([b"\xff\xfe"])
    assert infer(models_url, {"inputs": [binary_input("text", no_text, 1)]}, no_text).status == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(models_url: str, value: float) -> None:
    pixels = np.zeros((1, 3, 224, 224), "<f4")
    pixels[0, 2, 100, 100] = value
    payload = pixels.tobytes()
    tensor = binary_input("pixel_values", payload, 1, shape=[1, 3, 224, 224], datatype="FP32")
    assert infer(models_url, {"inputs": [tensor]}, payload).status == 400


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(models_url: str, name: str) -> None:
    payload = encode_bytes([CAT, BAD_PICTURES[name]])
    reply = infer(models_url, {"inputs": [binary_input("image", payload, 2)]}, payload)
    assert reply.status == 422 and reply.json()["error"].startswith("image[1]: ")
    assert request(f"{models_url}/v2/health/ready").status == 200


def test_bombs_of_compression(models_url: str) -> None:
    bomb = gzip.compress(bytes(200 * 2**20))
    url = f"{models_url}/v2/models/small/infer"
    reply = request(url, bomb, {"Content-Encoding": "gzip"})
    assert reply.status == 413 and isinstance(reply.json()["error"], str)
