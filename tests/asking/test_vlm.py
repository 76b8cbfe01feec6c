"""Questions sent to a server, checked with OpenAI's own client and types."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import PIL.Image
import pydantic
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

import twotower
from twotower.asking.vlm import MAX_SIDE, Vlm, data_uri
from twotower.cli.main import main
from twotower.errors import PictureError, QuestionError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
REQUEST = pydantic.TypeAdapter(CompletionCreateParamsNonStreaming)


class Server(ThreadingHTTPServer):
    """A chat server that answers with the size of the picture it received."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key: str | None = None
        self.reply: bytes | None = None  # instead of an answer
        self.status = 200
        self.delay = threading.Event()
        self.delay.set()
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        self._send(200, {"object": "list", "data": [{"id": "some-vlm", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.delay.wait(5)
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            received = self.headers["Authorization"]
            self._send(401, {"error": {"message": f"wrong key {received}", "type": "auth"}})
            return
        if self.server.reply is not None:
            self._send(self.server.status, self.server.reply)
            return
        assert self.path == "/v1/chat/completions"
        valid = REQUEST.validate_python(body)
        content = list(list(valid["messages"])[-1]["content"])  # type: ignore[arg-type, typeddict-item]
        uri = content[1]["image_url"]["url"]  # type: ignore[index, typeddict-item]
        image = PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        tree = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{image.width}x{image.height}"},
                }
            ],
        }
        ChatCompletion.model_validate(tree)
        self._send(200, tree)

    def _send(self, status: int, tree: Any) -> None:
        content = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("TWOTOWER_VLM_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.delay.set()
        server.shutdown()


def test_a_question_is_sent_and_answered(server: Server) -> None:
    vlm = Vlm(server.url)
    assert vlm.model == "some-vlm"
    [answered] = twotower.ask(PHOTOS / "cat.jpg", "what is this?", vlm=vlm)
    with PIL.Image.open(PHOTOS / "cat.jpg") as image:
        scale = min(1.0, MAX_SIDE / max(image.size))
        size = [round(side * scale) for side in image.size]
    assert answered.answer == f"{size[0]}x{size[1]}"
    assert answered.replies[0].probability is None
    assert "some-vlm" in answered.notes[0]


def test_the_wire_form_is_that_of_the_openai_client(server: Server) -> None:
    """The same call through OpenAI's client sends the same body."""
    Vlm(server.url).answer(PHOTOS / "cat.jpg", "what is this?")
    [ours] = server.bodies
    client = OpenAI(base_url=server.url, api_key="none")
    client.chat.completions.create(**ours)
    assert server.bodies[1] == ours


def test_a_key_is_sent_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "right"
    monkeypatch.setenv("TWOTOWER_VLM_KEY", "very-secret")
    vlm = Vlm(server.url)
    with pytest.raises(QuestionError, match="401") as caught:
        vlm.answer(PHOTOS / "cat.jpg", "what is this?")
    assert "very-secret" not in str(caught.value) and "TWOTOWER_VLM_KEY" in str(caught.value)
    monkeypatch.setenv("TWOTOWER_VLM_KEY", "right")
    assert vlm.answer(PHOTOS / "cat.jpg", "what is this?")


@pytest.mark.parametrize(
    ("status", "reply", "words"),
    [
        (500, b'{"error": {"message": "out of\\nmemory"}}', "500 out of memory"),
        (500, b"<html>", "500"),
        (200, b"<html>", "not JSON"),
        (200, b"{}", "without an answer"),
        (200, b'{"choices": [{"message": {"content": null}}]}', "without an answer"),
        (200, b'{"choices": []}', "without an answer"),
    ],
)
def test_a_server_that_fails_is_one_line(
    server: Server, status: int, reply: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status, server.reply = status, reply
    assert main(["ask", str(PHOTOS / "cat.jpg"), "what is this?", "--vlm", server.url]) == 1
    _, err = capsys.readouterr()
    assert words in err and len(err.splitlines()) == 1 and server.url in err


def test_unreachable_servers_and_timeouts(server: Server) -> None:
    with pytest.raises(QuestionError, match="check that the server is running"):
        Vlm("http://127.0.0.1:1", "model").answer(PHOTOS / "cat.jpg", "what is this?")
    with pytest.raises(QuestionError, match="no URL"):
        Vlm("localhost:8000")
    server.delay.clear()
    with pytest.raises(QuestionError, match="no answer within"):
        Vlm(server.url, "model", timeout=0.2).answer(PHOTOS / "cat.jpg", "what is this?")


def test_bad_pictures_and_questions_do_not_reach_it(server: Server) -> None:
    pictures = [PHOTOS / "missing.jpg", PHOTOS / "cat.jpg"]
    answered = list(twotower.ask(pictures, ["", "what is this?"], vlm=Vlm(server.url)))
    kinds = [type(answer.error) for answer in answered]
    assert kinds == [QuestionError, PictureError, QuestionError, type(None)]
    assert len(server.bodies) == 1


def test_transparency_is_sent_as_white() -> None:
    picture = PIL.Image.new("RGBA", (2000, 10), (255, 0, 0, 0))
    content = base64.b64decode(data_uri(picture).split(",")[1])
    image = PIL.Image.open(io.BytesIO(content))
    assert image.size == (MAX_SIDE, 5) and image.getpixel((0, 0)) == (255, 255, 255)
