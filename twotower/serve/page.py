"""The page: static files, read once, at addresses that change with their content.

The files are served below `/web/DIGEST/`, where DIGEST is the hash of all of them. Browsers may
therefore keep them for good, and a new version of the package never mixes with files of an old one.
Modules import each other by relative paths, which keep the digest. Only `/` itself is asked for
again, and answered with 304 while nothing has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

# Every file that the page has; no address of a request is ever turned into a path.
FILES = {
    "base.css": "text/css",
    "grid.css": "text/css",
    "lightbox.css": "text/css",
    "messages.css": "text/css",
    "page.css": "text/css",
    "results.css": "text/css",
    "tasks.css": "text/css",
    "icon.svg": "image/svg+xml",
    "page.webmanifest": "application/manifest+json",
    **dict.fromkeys(
        (
            "answer.js",
            "api.js",
            "app.js",
            "chips.js",
            "details.js",
            "dom.js",
            "drop.js",
            "duplicates.js",
            "grid.js",
            "header.js",
            "help.js",
            "indexing.js",
            "justify.js",
            "layout-worker.js",
            "layout.js",
            "lightbox.js",
            "location.js",
            "messages.js",
            "photos.js",
            "query.js",
            "review.js",
            "theme.js",
            "timeline.js",
        ),
        "text/javascript",
    ),
}
_FOREVER = "public, max-age=31536000, immutable"
_REVALIDATE = "no-cache"


def page_routes() -> list[Route]:
    """Return the routes of `/` and of its files, all of them without an API key."""
    contents = _read_all()
    digest = _digest(contents)
    folder = f"/web/{digest}/"
    for name in ("index.html", "page.webmanifest"):
        contents[name] = contents[name].replace(b'"/web/', f'"{folder}'.encode())
    routes = [
        Route(folder + name, _serve(contents[name], f"{kind}; charset=utf-8", _FOREVER, digest))
        for name, kind in FILES.items()
    ]
    index = _serve(contents["index.html"], "text/html; charset=utf-8", _REVALIDATE, digest)
    return [Route("/", index), *routes]


def _read_all() -> dict[str, bytes]:
    folder = files("twotower.serve") / "web"
    return {name: (folder / name).read_bytes() for name in ("index.html", *FILES)}


def _digest(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _serve(
    content: bytes, kind: str, caching: str, digest: str
) -> Callable[[Request], Awaitable[Response]]:
    headers = {"Content-Type": kind, "Cache-Control": caching, "ETag": f'"{digest}"'}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return answer
