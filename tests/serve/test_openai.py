import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serve.calls import (
    assert_equal_embeds,
    base64_photo,
    data_uri,
    from_base64,
    local_photo,
    local_text,
    post,
    send,
)
from tests.serve.running import running_server
from twotower.serve.errors import RequestError
from twotower.serve.protocols.openai import openai_error


def embed(url: str, **body: Any) -> list[Any]:
    status, _, content = post(f"{url}/v1/embeddings", body)
    assert status == 200, content
    assert [row["index"] for row in content["data"]] == list(range(len(content["data"])))
    return [row["embedding"] for row in content["data"]]


def error_of(url: str, body: Any, path: str = "/v1/embeddings") -> tuple[int, dict[str, Any]]:
    status, _, content = post(f"{url}{path}", body)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"message", "type", "param", "code"}
    return status, content["error"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_texts(models_url: str, path: str) -> None:
    status, _, content = post(f"{models_url}{path}", {"model": "small", "input": ["a cat", "hi"]})
    assert status == 200
    assert content["object"] == "list" and content["model"] == "twotower-small"
    assert content["usage"]["total_tokens"] == content["usage"]["prompt_tokens"] > 4
    assert isinstance(content["id"], str) and isinstance(content["created"], int)
    for row, text in zip(content["data"], ["a cat", "hi"], strict=True):
        assert row["object"] == "embedding"
        assert_equal_embeds(row["embedding"], local_text(text))


def test_base64_holds_little_endian_floats(models_url: str) -> None:
    for name in ("encoding_format", "embedding_type"):
        (row,) = embed(models_url, input="a cat", **{name: "base64"})
        assert_equal_embeds(from_base64(row), local_text("a cat"))


def test_dimensions_of_the_model_or_none(models_url: str) -> None:
    for dimensions in (None, 0, 512):
        (row,) = embed(models_url, input="a cat", dimensions=dimensions)
        assert len(row) == 512
    status, error = error_of(models_url, {"input": "a cat", "dimensions": 64})
    assert status == 400 and error["param"] == "dimensions"


@pytest.mark.parametrize(
    "body",
    [
        {"input": data_uri("cat.jpg"), "modality": "image"},
        {"input": [data_uri("cat.jpg")]},
        {"input": [{"image": base64_photo("cat.jpg")}]},
        {"input": [{"image": data_uri("cat.jpg")}], "normalized": True, "task": "retrieval"},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": data_uri("cat.jpg")}},
                        {"type": "text", "text": ""},
                    ],
                }
            ],
            "add_special_tokens": False,
        },
    ],
    ids=["infinity", "data-uri", "jina-base64", "jina-data-uri", "vllm"],
)
def test_a_picture_in_each_dialect(models_url: str, body: dict[str, Any]) -> None:
    (row,) = embed(models_url, **body)
    assert_equal_embeds(row, local_photo("cat.jpg"))


def test_the_earlier_path_of_infinity(models_url: str) -> None:
    body = {"input": [data_uri("cat.jpg"), data_uri("dog.jpg")], "model": "default/not-specified"}
    status, _, content = post(f"{models_url}/embeddings_image", body)
    assert status == 200
    for row, name in zip(content["data"], ("cat.jpg", "dog.jpg"), strict=True):
        assert_equal_embeds(row["embedding"], local_photo(name))
    status, error = error_of(models_url, {"messages": []}, "/embeddings_image")
    assert status == 400 and error["param"] == "input"


def test_conversations_of_vllm(models_url: str) -> None:
    def message(content: Any) -> dict[str, Any]:
        return {"role": "user", "content": content}

    text = [{"type": "text", "text": "a dog"}]
    for body in (
        {"messages": [[message("a cat")], [message(text)]]},
        {"input": [message("a cat"), message(text)]},
        {"input": [[message("a cat")], [message(text)]]},
    ):
        rows = embed(models_url, **body)
        for row, words in zip(rows, ("a cat", "a dog"), strict=True):
            assert_equal_embeds(row, local_text(words))


def test_modality_text_takes_a_data_uri_as_text(models_url: str) -> None:
    text = "data:image/png;base64,AA=="
    (row,) = embed(models_url, input=text, modality="text")
    assert_equal_embeds(row, local_text(text))


ITEMS = {
    "a cat": "a cat",
    "ein Haus am See": "ein Haus am See",
    "cat.jpg": {"image": base64_photo("cat.jpg")},
    "dog.jpg": data_uri("dog.jpg"),
    "x": {"text": "x"},
}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(st.sampled_from(sorted(ITEMS)), min_size=1, max_size=7))
def test_mixed_items_keep_their_order(models_url: str, names: list[str]) -> None:
    rows = embed(models_url, input=[ITEMS[name] for name in names])
    assert len(rows) == len(names)
    for row, name in zip(rows, names, strict=True):
        expected = local_photo(name) if name.endswith(".jpg") else local_text(name)
        assert_equal_embeds(row, expected)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1.5]}, "input[1]"),
        ({"input": True}, "input"),
        ({"input": ["a", None]}, "input[1]"),
        ({"input": ["a", {}]}, "input[1]"),
        ({"input": [{"text": "a", "image": "b"}]}, "input[0]"),
        ({"input": [{"text": 5}]}, "input[0]"),
        ({"input": "\ud800"}, None),
        ({"input": "a" * 20_001}, "input"),
        ({"input": ["a"] * 2049}, "input[2048]"),
        ({"input": "a", "modality": "audio"}, "modality"),
        ({"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ({"input": "a", "dimensions": "512"}, "dimensions"),
        ({"input": "a", "model": 5}, "model"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype"),
        ({"input": ["a", "no picture!"], "modality": "image"}, "input[0]"),
        ({"input": [data_uri("cat.jpg"), "AAAA"], "modality": "image"}, "input[1]"),
        ({"input": ["data:image/png;base64"]}, "input[0]"),
        ({"input": [{"image": "http://127.0.0.1/cat.jpg"}]}, "input[0]"),
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"messages": [[{"role": "user", "content": "a"}], [5]]}, "messages[1]"),
        ([], None),
        ("a", None),
    ],
)
def test_wrong_requests(models_url: str, body: Any, param: str | None) -> None:
    status, error = error_of(models_url, body)
    assert (status, error["param"]) == (400, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"].isprintable()


def test_a_decompression_bomb(models_url: str) -> None:
    file = io.BytesIO()
    PIL.Image.new("1", (12_000, 12_000)).save(file, "PNG")
    assert len(file.getvalue()) < 50_000
    bomb = base64.b64encode(file.getvalue()).decode()
    status, error = error_of(models_url, {"input": [{"image": bomb}]})
    assert (status, error["param"]) == (400, "input[0]")
    assert "12000 x 12000" in error["message"]
    (row,) = embed(models_url, input=[data_uri("cat.jpg")])
    assert_equal_embeds(row, local_photo("cat.jpg"))


def test_a_body_that_is_no_json(models_url: str) -> None:
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        status, _, content = send(f"{models_url}/v1/embeddings", body)
        assert status == 400 and content["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_remedy(models_url: str, tokens: Any) -> None:
    status, error = error_of(models_url, {"input": tokens, "encoding_format": "base64"})
    assert status == 400
    assert "check_embedding_ctx_length=False" in error["message"]


def test_a_picture_with_a_text_is_refused(models_url: str) -> None:
    content = [
        {"type": "image_url", "image_url": {"url": data_uri("cat.jpg")}},
        {"type": "text", "text": "a cat"},
    ]
    status, error = error_of(models_url, {"messages": [{"role": "user", "content": content}]})
    assert status == 400 and "separate embeddings" in error["message"]


def test_models(models_url: str) -> None:
    for path in ("/v1/models", "/models"):
        status, _, content = send(models_url + path)
        assert status == 200 and content["object"] == "list"
        (card,) = content["data"]
        assert (card["id"], card["object"]) == ("twotower-small", "model")
        assert isinstance(card["created"], int)
    assert send(f"{models_url}/v1/models/small").content == card
    for name in ("org/other", "gpt-4"):
        status, _, content = send(f"{models_url}/v1/models/{name}")
        assert status == 404 and content["error"]["code"] == "model_not_found"


def test_an_unknown_model(models_url: str) -> None:
    status, error = error_of(models_url, {"input": "a", "model": "text-embedding-3-small"})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "twotower-small" in error["message"]


def test_a_request_that_took_too_long_is_not_repeated() -> None:
    response = openai_error(RequestError(504, "not answered within 120 s"))
    assert response.headers["x-should-retry"] == "false"
    assert "x-should-retry" not in openai_error(RequestError(429, "busy")).headers


def test_keys() -> None:
    with running_server(["--model", "small"], {"TWOTOWER_SERVE_API_KEY": "k"}) as url:
        status, headers, content = post(f"{url}/v1/embeddings", {"input": "a"})
        assert status == 401 and content["error"]["code"] == "invalid_api_key"
        assert headers["www-authenticate"] == "Bearer"
        body = json.dumps({"input": "a"}).encode()
        assert send(f"{url}/v1/embeddings", body, {"Authorization": "Bearer k"}).status == 200


def test_a_large_request_fits_a_short_queue() -> None:
    pictures = [data_uri(("cat.jpg", "dog.jpg")[index % 2]) for index in range(8)]
    with running_server(["--model", "small", "--max-queue", "2"]) as url:
        for row, name in zip(embed(url, input=pictures), ["cat.jpg", "dog.jpg"] * 4, strict=True):
            assert_equal_embeds(row, local_photo(name))
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda _: post(f"{url}/v1/embeddings", {"input": pictures}), range(4))
            )
    assert {answer.status for answer in answers} == {200, 429}
    for answer in answers:
        if answer.status == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.content["error"]["code"] == "rate_limit_exceeded"
