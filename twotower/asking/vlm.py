"""Questions handed to a person's own large model: any server that speaks OpenAI's chat protocol.

The key, if the server wants one, is read from TWOTOWER_VLM_KEY, or OPENAI_API_KEY, and appears in
no message.
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
from twotower.asking.questions import plain
from twotower.errors import PictureError, QuestionError
from twotower.inputs.pictures import Picture, on_white, open_picture

KEYS = ("TWOTOWER_VLM_KEY", "OPENAI_API_KEY")
SIDE = 1024  # pixels along the longer side of what is sent; what is smaller stays as it is
TIMEOUT = 120.0  # seconds; a large model on a small machine takes its time
INSTRUCTION = (
    "Answer the question about the picture in as few words as possible, without a sentence. "
    "If the picture does not tell, answer: not sure."
)
NOTE = "answered by {model} at the server; it gives no probability"


class Vlm:
    """A server, by its URL, such as http://localhost:8000/v1.

    Args:
        model: the name of the model; by default the first that the server lists.

    Raises:
        VlmError: the URL is none, or no model could be found out.
    """

    def __init__(self, url: str, model: str | None = None, timeout: float = TIMEOUT) -> None:
        if not re.match(r"https?://[^/]+", url):
            raise QuestionError(
                f"{url}: no URL of a server; write one, as http://localhost:8000/v1"
            )
        self.url = re.sub(r"(/chat/completions)?/*$", "", url)
        if not re.search(r"/v\d+$", self.url):
            self.url += "/v1"
        self.timeout = timeout
        self.model = model or self._first_model()

    def answer(self, picture: Picture, question: str) -> str:
        """The model's words.

        Raises:
            PictureError: the picture cannot be read.
            VlmError: the server does not answer, or not as the protocol says.
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
                f"{self.url}: answered without an answer; is {self.model} a chat model?"
            )
        return " ".join(content.split())

    def _first_model(self) -> str:
        tree = self._request("/models")
        try:
            return str(tree["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise QuestionError(f"{self.url}: lists no model; name one with --vlm-model") from None

    def _request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            hint = f"; put the server's key into {KEYS[0]}" if error.code in (401, 403) else ""
            raise QuestionError(
                f"{self.url}: says {error.code} {_reason(error, key)}{hint}"
            ) from None
        except TimeoutError:
            raise QuestionError(
                f"{self.url}: no answer within {self.timeout:.0f} seconds"
            ) from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                reason = f"no answer within {self.timeout:.0f} seconds"
            raise QuestionError(
                f"{self.url}: not reached ({reason}); is the server running?"
            ) from None
        except ValueError:
            raise QuestionError(f"{self.url}: answered something that is not JSON") from None


def answer_all(
    pictures: Iterable[Picture], questions: Sequence[str], vlm: Vlm, answers: Sequence[str] = ()
) -> Iterator[Answered]:
    """Every question about every picture, as the server answers; arguments as in `ask`.

    Raises:
        VlmError: the server cannot be reached; what was answered before has been yielded.
    """
    for picture in pictures:
        for question in questions:
            yield _answer(picture, question, vlm, answers)


def _answer(picture: Picture, question: str, vlm: Vlm, answers: Sequence[str]) -> Answered:
    try:
        plain(question)  # without words it goes nowhere
        among = f" Choose among: {', '.join(answers)}." if answers else ""
        said = vlm.answer(picture, question.strip() + among)
    except (PictureError, QuestionError) as error:
        return Answered(picture, question, "server", error=error)
    sure = said.lower().rstrip(".") != "not sure"
    note = NOTE.format(model=vlm.model)
    reply = (Reply(said, None),)
    return Answered(picture, question, "server", reply, sure, (note,), by="server")


def data_uri(picture: Picture) -> str:
    """A picture as a JPEG in a data: URI, upright, its longer side `SIDE` pixels at most."""
    image = on_white(open_picture(picture))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _reason(error: urllib.error.HTTPError, key: str | None) -> str:
    """What the server says went wrong, without a key that it may have repeated."""
    text = error.read(2000).decode("utf-8", errors="replace")
    try:
        tree = json.loads(text)
        found = tree.get("error", tree) if isinstance(tree, dict) else text
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except ValueError:
        text = str(error.reason)
    text = " ".join(text.split())[:200]
    return text.replace(key, "***") if key else text
