"""The transports of MCP: stdio, and streamable HTTP as a route of the server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Route

from twotower.serve.access import RequireKey
from twotower.serve.mcp import create_mcp

if TYPE_CHECKING:
    from twotower.serve.server import Server

PATH = "/mcp"


def create_route(server: Server) -> tuple[Route, StreamableHTTPSessionManager]:
    """Return the route of streamable HTTP, without sessions, and the manager to run with it."""
    mcp = create_mcp(server)
    mcp.streamable_http_app(
        stateless_http=True,
        json_response=True,
        # HostCheck, around all routes, refuses foreign hosts and origins
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    app = RequireKey(StreamableHTTPASGIApp(mcp.session_manager), server.access)
    return Route(PATH, app), mcp.session_manager


@contextlib.asynccontextmanager
async def running(server: Server) -> AsyncIterator[None]:
    """Start a server without HTTP while the block runs."""
    await server.start()
    try:
        yield
    finally:
        await server.stop()


async def run_stdio(server: Server) -> None:
    """Answer on stdin and stdout until stdin is closed; other output goes to stderr."""
    mcp = create_mcp(server)
    async with running(server):
        await mcp.run_stdio_async()
