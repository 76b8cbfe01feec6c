"""The server as a whole: health, errors, access, limits."""

import base64
import contextlib
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import twotower
from tests.serve.running import running_server

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def call(
    url: str, body: bytes | dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Return status, JSON (or text) and headers of a response."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    request = urllib.request.Request(url, content, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, text, fields = response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        status, text, fields = error.code, error.read(), dict(error.headers)
    try:
        return status, json.loads(text), fields
    except ValueError:
        return status, text.decode(), fields


def photo(name: str) -> str:
    return base64.b64encode((PHOTOS / name).read_bytes()).decode()


def test_health_and_metrics(models_url: str) -> None:
    assert call(f"{models_url}/healthz")[:2] == (200, {"status": "alive"})
    assert call(f"{models_url}/readyz")[:2] == (
        200,
        {"status": "ready", "models": ["twotower-small"]},
    )
    call(f"{models_url}/api/embed", {"texts": ["a cat"]})
    status, text, _ = call(f"{models_url}/metrics")
    assert status == 200
    assert 'twotower_requests_total{endpoint="/api/embed",method="POST",status="200"}' in text
    assert 'twotower_tower_items_total{tower="twotower-small-texts"}' in text


def test_embeddings_are_those_of_the_model(models_url: str) -> None:
    texts, images = ["a cat", "two dogs on a beach"], ["cat.jpg", "oranges.jpg"]
    body = {"texts": texts, "images": [photo(name) for name in images]}
    status, answer, _ = call(f"{models_url}/api/embed", body)
    assert status == 200
    model = twotower.load("small")
    for kind, expected in (
        ("texts", model.encode_text(texts)),
        ("images", model.encode_image([PHOTOS / name for name in images])),
    ):
        embeds = np.array([item["embedding"] for item in answer[kind]])
        assert (embeds * expected).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_base64_holds_the_same_numbers(models_url: str) -> None:
    floats = call(f"{models_url}/api/embed", {"texts": ["a cat"]})[1]["texts"][0]["embedding"]
    encoded = call(f"{models_url}/api/embed", {"texts": ["a cat"], "encoding": "base64"})[1]
    values = np.frombuffer(base64.b64decode(encoded["texts"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(values, floats, atol=1e-6)


def test_one_bad_picture_does_not_fail_the_others(models_url: str) -> None:
    images = [photo("cat.jpg"), "AAAA", "no base64!", "", "http://example.org/a.jpg"]
    status, answer, _ = call(f"{models_url}/api/embed", {"images": images})
    assert status == 200
    assert [item["status"] for item in answer["images"]] == [200, 422, 400, 400, 400]
    assert "URLs are not fetched" in answer["images"][4]["error"]["message"]


def test_classification(models_url: str) -> None:
    body = {"images": [photo("cat.jpg"), "AAAA"], "labels": ["dog", "cat", "car"]}
    status, answer, _ = call(f"{models_url}/api/classify", body)
    assert status == 200
    labels = answer["images"][0]["labels"]
    assert labels[0]["label"] == "cat" and labels[0]["probability"] > 0.9
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1, abs=1e-3)
    assert answer["images"][1]["status"] == 422


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"no json", 400, None),
        (b"[1]", 422, None),
        (b'{"texts": 5}', 422, "texts"),
        (b'{"texts": [""]}', 422, "texts.0"),
        (b'{"texts": ["a"], "colour": 1}', 422, "colour"),
        (b'{"texts": ["a"], "model": "big"}', 404, "model"),
        (b'{"texts": ["' + b"a" * 30_000 + b'"]}', 400, "input[0]"),
        (b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
        (json.dumps({"texts": ["a"] * 3000}).encode(), 400, "input"),
        (b"\xff\xfe\x00", 400, None),
    ],
)
def test_a_wrong_request_is_explained(
    models_url: str, body: bytes, status: int, field: str | None
) -> None:
    answer = call(f"{models_url}/api/embed", body)
    assert answer[0] == status
    assert set(answer[1]["error"]) == {"status", "message", "field"}
    assert answer[1]["error"]["field"] == field
    assert call(f"{models_url}/healthz")[0] == 200


def test_paths_and_methods_that_do_not_exist(models_url: str) -> None:
    assert call(f"{models_url}/nothing")[0] == 404
    status, answer, headers = call(f"{models_url}/api/embed")
    assert status == 405 and "POST" in headers["allow"] and "GET" in answer["error"]["message"]


def test_compressed_bodies(models_url: str) -> None:
    body = gzip.compress(b'{"texts": ["a cat"]}')
    encoding = {"Content-Encoding": "gzip"}
    assert call(f"{models_url}/api/embed", body, encoding)[0] == 200
    assert call(f"{models_url}/api/embed", b"none", encoding)[0] == 400
    bomb = gzip.compress(bytes(200 * 2**20))
    assert call(f"{models_url}/api/embed", bomb, encoding)[0] == 413
    assert call(f"{models_url}/api/embed", body, {"Content-Encoding": "br"})[0] == 415


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:80", 200),
        ("[::1]", 200),
        ("attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("", 421),
    ],
)
def test_rebound_names_are_refused(models_url: str, host: str, status: int) -> None:
    assert call(f"{models_url}/healthz", headers={"Host": host})[0] == status


def test_pages_of_other_origins_are_refused(models_url: str) -> None:
    body = {"texts": ["a cat"]}
    foreign = call(f"{models_url}/api/embed", body, {"Origin": "https://attacker.example"})
    assert foreign[0] == 403 and "access-control-allow-origin" not in foreign[2]
    assert call(f"{models_url}/api/embed", body, {"Origin": "null"})[0] == 403
    assert call(f"{models_url}/api/embed", body, {"Origin": models_url})[0] == 200


def test_responses_carry_a_content_security_policy(models_url: str) -> None:
    for path in ("/healthz", "/nothing"):
        headers = call(f"{models_url}{path}")[2]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """A server with a key, one slow-body limit and an origin that may call it."""
    options = ["--model", "small", "--cors-origin", "https://app.example"]
    environment = {
        "TWOTOWER_SERVE_API_KEY": "correct horse",
        "TWOTOWER_SERVE_BODY_SECONDS": "1.5",
        "TWOTOWER_SERVE_MAX_BODY_MB": "1",
    }
    with running_server(options, environment) as url:
        yield url


def test_a_key_is_required(guarded_url: str) -> None:
    body = {"texts": ["a cat"]}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "correct"}):
        status, _, fields = call(f"{guarded_url}/api/embed", body, headers)
        assert status == 401 and fields["www-authenticate"] == "Bearer"
    for headers in ({"Authorization": "Bearer correct horse"}, {"X-API-Key": "correct horse"}):
        assert call(f"{guarded_url}/api/embed", body, headers)[0] == 200
    assert call(f"{guarded_url}/metrics")[0] == 401
    assert call(f"{guarded_url}/healthz")[0] == 200


def test_an_allowed_origin_may_call(guarded_url: str) -> None:
    headers = {"Origin": "https://app.example", "X-API-Key": "correct horse"}
    status, _, fields = call(f"{guarded_url}/api/embed", {"texts": ["a"]}, headers)
    assert status == 200 and fields["access-control-allow-origin"] == "https://app.example"


def test_a_body_that_is_too_large_or_too_slow(guarded_url: str) -> None:
    key = {"X-API-Key": "correct horse"}
    assert call(f"{guarded_url}/api/embed", bytes(2 * 2**20), key)[0] == 413
    address = urlsplit(guarded_url)
    with contextlib.closing(
        socket.create_connection((address.hostname, address.port), timeout=30)
    ) as slow:
        slow.sendall(
            b"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nX-API-Key: correct horse\r\n"
            b"Content-Length: 100\r\n\r\nhalf"
        )
        assert b" 408 " in slow.recv(4096)
    assert call(f"{guarded_url}/healthz")[0] == 200


def test_many_clients_at_once_get_their_own_answers(models_url: str) -> None:
    words = [f"a picture of {number} balloons" for number in range(24)]
    expected = twotower.load("small").encode_text(words)
    answers: dict[int, Any] = {}

    def ask(number: int) -> None:
        body = {"texts": [words[number]]}
        answers[number] = call(f"{models_url}/api/embed", body)[1]["texts"][0]["embedding"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(words))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    embeds = np.array([answers[number] for number in range(len(words))])
    assert (embeds @ expected.T).argmax(axis=1).tolist() == list(range(len(words)))


def test_a_client_that_leaves_does_no_harm(models_url: str) -> None:
    address = urlsplit(models_url)
    body = json.dumps({"images": [photo("cat.jpg")] * 20}).encode()
    for sent in (len(body) // 2, len(body)):
        with socket.create_connection((address.hostname, address.port), timeout=30) as leaving:
            head = f"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
            leaving.sendall(f"{head}\r\n\r\n".encode() + body[:sent])
            time.sleep(0.2)
    assert call(f"{models_url}/api/embed", {"texts": ["a cat"]})[0] == 200


def test_shutdown_answers_requests_that_have_begun() -> None:
    answers: list[int] = []
    body = {"images": [photo("cat.jpg")] * 16}
    with running_server(["--model", "small"]) as url:
        call(f"{url}/api/embed", {"images": [photo("cat.jpg")]})
        thread = threading.Thread(target=lambda: answers.append(call(f"{url}/api/embed", body)[0]))
        thread.start()
        time.sleep(0.3)
    thread.join()
    assert answers == [200]


def test_the_command_explains_what_it_cannot_do() -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "twotower", "serve", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    for options, message in (
        (["--host", "0.0.0.0"], "--api-key"),
        (["--model", "nowhere"], "no such model"),
        (["--port", "70000"], "no port"),
    ):
        result = run(*options)
        assert result.returncode == 1 and message in result.stderr, result
        assert len(result.stderr.splitlines()) == 1, result.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--model", "small", "--port", str(taken.getsockname()[1]))
        assert result.returncode == 1 and "cannot listen" in result.stderr
