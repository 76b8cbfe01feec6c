"""Run the server until it is stopped."""

from __future__ import annotations

import json
import logging
import socket
from types import FrameType

import uvicorn

from twotower.errors import ServerError
from twotower.serve.app import create_app
from twotower.serve.server import Server
from twotower.serve.settings import ServerSettings

_SHUTDOWN_SECONDS = 30
_MAX_CONNECTIONS = 2000


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens on the host and port of the settings.

    Raises:
        ServerError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server(
            (settings.host, settings.port), family=family, backlog=_MAX_CONNECTIONS
        )
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise ServerError(
            address, f"cannot listen ({error.strerror})", "give another --port"
        ) from error


def run(server: Server, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests that have begun are answered first."""
    _log_to_stderr(json_lines=server.settings.log_json)
    config = uvicorn.Config(
        create_app(server),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    _Uvicorn(config, server).run(sockets=[listener])


class _Uvicorn(uvicorn.Server):
    """Tells open streams of a shutdown, which waits for them."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._server.closing.set()
        super().handle_exit(sig, frame)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _log_to_stderr(*, json_lines: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonFormatter() if json_lines else logging.Formatter("%(levelname)s: %(message)s")
    )
    for name in ("twotower.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING)
