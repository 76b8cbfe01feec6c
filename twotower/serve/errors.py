"""Errors of requests, and the shape in which a protocol reports them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from starlette.responses import JSONResponse, Response


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status.
        message: one line for the client.
        field: the field of the request at fault, such as "input[3]"; empty if it is none.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, " ".join(message.split()), field
        self.headers = dict(headers or {})


class OverloadedError(RequestError):
    """A tower has as many waiting items as are allowed."""

    def __init__(self, retry_seconds: int) -> None:
        super().__init__(
            429,
            "too many requests are waiting; try again later",
            headers={"Retry-After": str(retry_seconds)},
        )


ErrorShape: TypeAlias = Callable[[RequestError], Response]
"""Makes the response of an error, in the form of a protocol."""


def plain_error(error: RequestError) -> Response:
    """Return `{"error": {"status", "message", "field"}}`, the form of our own endpoints."""
    content = {"status": error.status, "message": error.message, "field": error.field or None}
    return JSONResponse({"error": content}, error.status, headers=error.headers)


def located_message(error: RequestError) -> str:
    """Return the message after the field at fault, for protocols whose errors name no field."""
    if not error.field or error.message.startswith(error.field):
        return error.message
    return f"{error.field}: {error.message}"


def text_error(error: RequestError) -> Response:
    """Return `{"error": "text"}`, the form of Hugging Face, KServe and Weaviate."""
    return JSONResponse({"error": located_message(error)}, error.status, headers=error.headers)
