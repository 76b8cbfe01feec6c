from typing import Any

import numpy as np
import pytest

from tests.serve.calls import (
    assert_equal_embeds,
    data_uri,
    from_base64,
    local_photo,
    local_text,
    post,
    send,
)


def embed(url: str, **body: Any) -> dict[str, Any]:
    status, _, content = post(f"{url}/v2/embed", {"model": "small", **body})
    assert status == 200, content
    assert content["response_type"] == "embeddings_by_type"
    assert content["meta"]["api_version"] == {"version": "2"}
    return dict(content)


def test_texts_are_float_by_default(models_url: str) -> None:
    content = embed(models_url, texts=["a cat", "a dog"], input_type="search_document")
    assert content["texts"] == ["a cat", "a dog"]
    assert list(content["embeddings"]) == ["float"]
    assert content["meta"]["billed_units"]["input_tokens"] > 4
    for row, text in zip(content["embeddings"]["float"], ("a cat", "a dog"), strict=True):
        assert_equal_embeds(row, local_text(text))


def test_pictures(models_url: str) -> None:
    content = embed(models_url, images=[data_uri("cat.jpg")], input_type="image")
    assert content["meta"]["billed_units"] == {"images": 1}
    assert_equal_embeds(content["embeddings"]["float"][0], local_photo("cat.jpg"))


def test_mixed_inputs_keep_their_order(models_url: str) -> None:
    content = embed(
        models_url,
        inputs=[
            {"content": [{"type": "image_url", "image_url": {"url": data_uri("dog.jpg")}}]},
            {"content": [{"type": "text", "text": "a cat"}]},
            {"content": [{"type": "image_url", "image_url": {"url": data_uri("cat.jpg")}}]},
        ],
    )
    expected = (local_photo("dog.jpg"), local_text("a cat"), local_photo("cat.jpg"))
    for row, embeds in zip(content["embeddings"]["float"], expected, strict=True):
        assert_equal_embeds(row, embeds)


def test_types_describe_the_same_embedding(models_url: str) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    rows = embed(models_url, texts=["a cat"], embedding_types=types)["embeddings"]
    assert set(rows) == set(types)
    embeds = np.array(rows["float"][0], np.float32)
    assert np.array_equal(from_base64(rows["base64"][0]), embeds)
    assert np.abs(np.array(rows["int8"][0]) / 127 - embeds).max() <= 0.5 / 127 + 1e-6
    assert np.array_equal(np.array(rows["uint8"][0]) - 128, rows["int8"][0])
    assert np.array_equal(np.array(rows["binary"][0]) + 128, rows["ubinary"][0])
    bits = [byte >> (7 - bit) & 1 for byte in rows["ubinary"][0] for bit in range(8)]
    assert np.array_equal(np.array(bits, bool), embeds >= 0)


def test_truncation(models_url: str) -> None:
    long_text = "a red car on a road " * 60 + "two small kittens in a basket"
    body = {"model": "small", "texts": ["a cat", long_text], "truncate": "NONE"}
    status, _, content = post(f"{models_url}/v2/embed", body)
    assert status == 400 and content["message"].startswith("texts[1]: ")

    def similarity(truncate: str) -> float:
        rows = embed(models_url, texts=["a cat", long_text], truncate=truncate)["embeddings"]
        assert_equal_embeds(rows["float"][0], local_text("a cat"))  # short texts stay as they are
        return float(np.array(rows["float"][1]) @ local_text("two small kittens in a basket"))

    assert similarity("START") > similarity("END") + 0.1


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "one of texts, images and inputs"),
        ({"texts": []}, 400, "one of texts, images and inputs"),
        ({"texts": ["a"], "images": ["b"]}, 400, "one of texts, images and inputs"),
        ({"texts": ["a", ""]}, 422, "texts.1"),
        ({"texts": "a"}, 422, "texts"),
        ({"texts": ["\ud800"]}, 400, "no JSON"),
        ({"texts": ["a"], "truncate": "MIDDLE"}, 422, "truncate"),
        ({"texts": ["a"], "embedding_types": ["float16"]}, 422, "embedding_types.0"),
        ({"texts": ["a"], "output_dimension": 256}, 400, "output_dimension"),
        ({"texts": ["a"], "model": "embed-v4.0"}, 404, "embed-v4.0"),
        ({"texts": ["a" * 20_001]}, 400, "texts[0]: "),
        ({"texts": ["a"] * 2049}, 400, "2049 items"),
        ({"images": ["data:image/png;base64,!"]}, 400, "images[0]: "),
        ({"images": [data_uri("cat.jpg"), "AAAA"]}, 422, "images[1]: "),
        ({"images": ["http://127.0.0.1/a.jpg"]}, 400, "images[0]: "),
        ({"inputs": [{"content": []}]}, 422, "inputs.0.content"),
        ({"inputs": [{"content": [{"type": "text"}]}]}, 400, "inputs[0]: "),
        ({"inputs": [{"content": [{"type": "audio"}]}]}, 422, "inputs.0.content.0.type"),
    ],
)
def test_wrong_requests(models_url: str, body: Any, status: int, text: str) -> None:
    answer = post(f"{models_url}/v2/embed", body)
    assert answer.status == status
    assert list(answer.content) == ["message"] and text in answer.content["message"]


def test_a_body_that_is_no_json(models_url: str) -> None:
    status, _, content = send(f"{models_url}/v2/embed", b"{")
    assert status == 400 and list(content) == ["message"]
