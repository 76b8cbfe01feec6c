"""Endpoint for browsers to show the API key once."""

from __future__ import annotations

from starlette.responses import Response

from twotower.serve.access import SESSION_COOKIE
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError
from twotower.serve.library_api.answers import TAG, Body


class SessionRequest(Body):
    """The API key."""

    key: str


async def open_session(call: Call) -> Response:
    """Open a session, whose cookie replaces the API key."""
    access = call.server.access
    key = call.parse(SessionRequest).key
    if access.needs_key and not access.is_key(key):
        raise RequestError(401, "the API key is wrong")
    response = Response(status_code=204)
    if access.needs_key:
        response.set_cookie(
            SESSION_COOKIE,
            access.open_session(),
            httponly=True,
            samesite="strict",
            secure=call.request.url.scheme == "https",
        )
    return response


ENDPOINTS = (
    Endpoint(
        "/api/session",
        ("POST",),
        open_session,
        TAG,
        "Open a session of a browser with the API key.",
        body=SessionRequest,
        status=204,
        public=True,
    ),
)
