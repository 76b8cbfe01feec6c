"""Answers by a large model on a server that speaks OpenAI's chat protocol.

The key, if the server needs one, is read from TWOTOWER_VLM_KEY, or else OPENAI_API_KEY. No message
contains it.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from twotower.asking.answer import Answered, Reply
from twotower.asking.questions import normalize_question
from twotower.errors import PictureError, QuestionError
from twotower.inputs.pictures import Picture, on_white, open_picture

KEY_VARIABLES = ("TWOTOWER_VLM_KEY", "OPENAI_API_KEY")
MAX_SIDE = 1024  # pixels along the longer side of a picture that is sent
TIMEOUT = 120.0  # seconds; a large model on a small machine is slow
MAX_ERROR_LENGTH = 200  # characters of a server's message that are shown
INSTRUCTION = (
    "Answer the question about the picture in as few words as possible, without a sentence. "
    "If the picture does not tell, answer: not sure."
)
NOTE = "answered by {model} at the server; it gives no probability"


class Vlm:
    """A server with a large model.

    Attributes:
        url: the address that ends in a version, such as http://localhost:8000/v1.
        model: the name of the model.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, model: str | None = None, timeout: float = TIMEOUT) -> None:
        """Find the server, and its model if none is named.

        Args:
            url: the address, with or without /v1 and /chat/completions.
            model: the name of the model; by default the first that the server lists.

        Raises:
            QuestionError: the URL is invalid, or the server cannot be reached or lists no model.
        """
        if not re.match(r"https?://[^/]+", url):
            raise QuestionError(
                url, "no URL of a server", "write one such as http://localhost:8000/v1"
            )
        self.url = re.sub(r"(/chat/completions)?/*$", "", url)
        if not re.search(r"/v\d+$", self.url):
            self.url += "/v1"
        self.timeout = timeout
        self.model = model or self._default_model()

    def answer(self, picture: Picture, question: str) -> str:
        """Return the model's answer.

        Raises:
            PictureError: the picture cannot be read.
            QuestionError: the server does not answer, or not as the protocol demands.
        """
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 100,
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": question},
                        {"type": "image_url", "image_url": {"url": data_uri(picture)}},
                    ],
                },
            ],
        }
        tree = self._request("/chat/completions", body)
        try:
            content = tree["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str) or not content.strip():
            raise QuestionError(
                self.url, "replied without an answer", f"check that {self.model} is a chat model"
            )
        return " ".join(content.split())

    def _default_model(self) -> str:
        tree = self._request("/models")
        try:
            return str(tree["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise QuestionError(self.url, "lists no model", "name one with --vlm-model") from None

    def _request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of the response. Raises `QuestionError`."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error, key) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise self._failure(getattr(error, "reason", None) or error) from None
        except ValueError:
            raise QuestionError(
                self.url, "the response is not JSON", "check the address of the server"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError, key: str | None) -> QuestionError:
        """Return the error for a response with an HTTP status of 400 or more."""
        remedy = "check the model and the log of the server"
        if error.code in (401, 403):
            remedy = f"put the server's key into {KEY_VARIABLES[0]}"
        return QuestionError(
            self.url, f"responded with {error.code} {_message(error, key)}", remedy
        )

    def _failure(self, cause: object) -> QuestionError:
        """Return the error for a request without a response."""
        if isinstance(cause, TimeoutError):
            return QuestionError(
                self.url,
                f"no answer within {self.timeout:.0f} seconds",
                "use a smaller model, or a faster server",
            )
        return QuestionError(
            self.url, f"cannot be reached ({cause})", "check that the server is running"
        )


def answer_all(
    pictures: Iterable[Picture], questions: Sequence[str], vlm: Vlm, answers: Sequence[str] = ()
) -> Iterator[Answered]:
    """Answer every question about every picture by a server; arguments as in `ask`."""
    for picture in pictures:
        for question in questions:
            yield _answer(picture, question, vlm, answers)


def _answer(picture: Picture, question: str, vlm: Vlm, answers: Sequence[str]) -> Answered:
    try:
        normalize_question(question)  # a text without words is not sent
        choices = f" Choose among: {', '.join(answers)}." if answers else ""
        answer = vlm.answer(picture, question.strip() + choices)
    except (PictureError, QuestionError) as error:
        return Answered(picture, question, "server", error=error)
    sure = answer.lower().rstrip(".") != "not sure"
    note = NOTE.format(model=vlm.model)
    return Answered(picture, question, "server", (Reply(answer, None),), sure, (note,), by="server")


def data_uri(picture: Picture) -> str:
    """Encode a picture as JPEG in a data: URI: upright, on white, at most MAX_SIDE pixels long."""
    image = on_white(open_picture(picture))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _message(error: urllib.error.HTTPError, key: str | None) -> str:
    """Return the server's message, without the key that it may repeat."""
    text = error.read(2000).decode("utf-8", errors="replace")
    try:
        tree = json.loads(text)
        cause = tree.get("error", tree) if isinstance(tree, dict) else text
        text = str(cause.get("message", cause) if isinstance(cause, dict) else cause)
    except ValueError:
        text = str(error.reason)
    text = " ".join(text.split())
    return (text.replace(key, "***") if key else text)[:MAX_ERROR_LENGTH]
