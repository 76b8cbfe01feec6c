"""The ASGI application: endpoints, middleware, start and shutdown."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twotower.serve import embed_api, mcp_transport, operations
from twotower.serve.access import SECURITY_HEADERS, HostCheck, SecurityHeaders
from twotower.serve.endpoint import Endpoint, to_routes
from twotower.serve.errors import RequestError, plain_error
from twotower.serve.library_api import (
    asking,
    duplicates,
    indexing,
    pictures,
    search,
    session,
    tags,
    uploads,
)
from twotower.serve.openapi import describe
from twotower.serve.page import page_routes
from twotower.serve.protocols import (
    clip_retrieval,
    cohere,
    hugging_face,
    immich,
    kserve,
    openai,
    weaviate,
)
from twotower.serve.server import Server

ENDPOINTS: tuple[Endpoint, ...] = (
    *operations.ENDPOINTS,
    *embed_api.ENDPOINTS,
    *clip_retrieval.ENDPOINTS,
    *immich.ENDPOINTS,
    *kserve.ENDPOINTS,
    *weaviate.ENDPOINTS,
    *openai.ENDPOINTS,
    *cohere.ENDPOINTS,
    *hugging_face.ENDPOINTS,
    *search.ENDPOINTS,
    *pictures.ENDPOINTS,
    *uploads.ENDPOINTS,
    *indexing.ENDPOINTS,
    *tags.ENDPOINTS,
    *asking.ENDPOINTS,
    *duplicates.ENDPOINTS,
    *session.ENDPOINTS,
)


def create_app(server: Server) -> Starlette:
    """Return the application of a server; its lifespan starts and stops the server."""
    manager = None
    if server.library is not None:
        mcp_route, manager = mcp_transport.create_route(server)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await server.start()
            stack.push_async_callback(server.stop)
            if manager is not None:
                await stack.enter_async_context(manager.run())
            yield

    description = describe(ENDPOINTS)

    async def openapi(_: Request) -> Response:
        return JSONResponse(description)

    routes = [*to_routes(ENDPOINTS, server), Route("/openapi.json", openapi)]
    routes += page_routes()
    if server.library is not None:
        routes.append(mcp_route)
    return Starlette(
        routes=routes,
        middleware=_middleware(server),
        exception_handlers={404: _not_found, 405: _wrong_method},
        lifespan=lifespan,
    )


class SingleSlash:
    """Middleware that reads `//path` as `/path`; clients append paths to addresses with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["path"].startswith("//"):
            scope["path"] = "/" + scope["path"].lstrip("/")
        await self._app(scope, receive, send)


def _middleware(server: Server) -> list[Middleware]:
    settings = server.settings
    middleware = [
        Middleware(SingleSlash),
        Middleware(SecurityHeaders, headers=SECURITY_HEADERS.items()),
        Middleware(HostCheck, settings=settings),
    ]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
            )
        )
    return middleware


async def _not_found(request: Request, _: Exception) -> Response:
    return plain_error(RequestError(404, f"there is nothing at {request.url.path}"))


async def _wrong_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    message = f"{request.method} is not possible at {request.url.path}"
    return plain_error(RequestError(405, message, headers=headers))
