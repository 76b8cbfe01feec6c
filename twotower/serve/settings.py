"""Settings of the server: defaults, a TOML file, the environment, then the command line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from twotower.errors import ServerError

ENVIRONMENT_PREFIX = "TWOTOWER_SERVE_"
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server; each has the same name in the file and, upper case, the environment.

    Attributes:
        folder: the folder of pictures to serve; None for a server of models alone.
        library: the folder of catalog and vectors; by default ".twotower" in `folder`.
        host, port: the address to listen on; port 0 for a free one.
        api_key: required in `Authorization: Bearer KEY` or `X-API-Key`; None for no key.
        no_auth: listen on other hosts than loopback without an API key.
        models: models to serve, as `load` takes them; the first is the default. By default that of
            the library, or the default model. Endpoints for embeddings keep it until a restart,
            also if the library changes its model: clients store vectors, and models do not mix.
        engine: the runtime of the models, as for `load`.
        allowed_hosts: further values of the `Host` header, besides loopback and `host`.
        cors_origins: origins whose pages may call the server; "*" for all.
        allow_writes: let clients tag pictures, write sidecars and start indexing. By default the
            page and the HTTP API may on loopback, and assistants may not.
        fetch_urls: fetch pictures by the URLs in requests, from public addresses alone.
        max_batch: items of one pass through a tower.
        max_wait_ms: milliseconds that an idle tower waits for more items.
        max_queue: items that may wait for a tower; further requests get 429.
        max_items: items in one request.
        max_body_mb: megabytes of a request.
        max_pixels: of a picture.
        max_text: characters of a text.
        body_seconds: the time in which the body of a request must arrive.
        request_seconds: the time in which a request must be answered.
        decoders: worker processes that decode pictures; 0 for one per core.
        decode_seconds: the time in which a picture must be decoded.
        decode_memory_mb: megabytes of address space of a worker process.
        log_json: write the log as one JSON object a line.
    """

    folder: str | None = None
    library: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    no_auth: bool = False
    models: tuple[str, ...] = ()
    engine: str = "onnxruntime"
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allow_writes: bool | None = None
    fetch_urls: bool = False
    max_batch: int = 32
    max_wait_ms: float = 3.0
    max_queue: int = 1024
    max_items: int = 2048
    max_body_mb: int = 64
    max_pixels: int = 100_000_000
    max_text: int = 20_000
    body_seconds: float = 30.0
    request_seconds: float = 120.0
    decoders: int = 0
    decode_seconds: float = 15.0
    decode_memory_mb: int = 2048
    log_json: bool = False

    @property
    def is_loopback(self) -> bool:
        """True if only programs on this machine can connect."""
        return self.host in LOOPBACK

    @property
    def page_writes(self) -> bool:
        """True if the HTTP API may change the library."""
        return self.is_loopback if self.allow_writes is None else self.allow_writes

    def check(self) -> ServerSettings:
        """Return the settings if they are safe.

        Raises:
            ServerError: another host than loopback without a key, or a number out of range.
        """
        if not (self.is_loopback or self.api_key or self.no_auth):
            raise ServerError(
                f"host {self.host}",
                "other machines could read the library without a key",
                "give --api-key KEY (or TWOTOWER_SERVE_API_KEY), or --no-auth to allow it",
            )
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ServerError(f"{name}={getattr(self, name)}", "not positive", "give more")
        if not 0 <= self.port < 65536:
            raise ServerError(f"port={self.port}", "no port", "give 0 to 65535")
        return self


_POSITIVE = (
    "max_batch max_queue max_items max_body_mb max_pixels max_text body_seconds request_seconds "
    "decode_seconds decode_memory_mb"
).split()
_TYPES = get_type_hints(ServerSettings)


def read_settings(
    command_line: Mapping[str, Any],
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> ServerSettings:
    """Return the checked settings; later sources replace earlier ones.

    Args:
        command_line: values that were given; None stands for "not given".
        file: a TOML file.

    Raises:
        ServerError: a setting is unknown, has a wrong type, or is unsafe.
        OSError: the file cannot be read.
    """
    settings = ServerSettings()
    if file is not None:
        settings = replace(settings, **_read_file(file))
    settings = replace(settings, **_read_environment(environment))
    requested = {name: value for name, value in command_line.items() if value is not None}
    return replace(settings, **requested).check()


def _read_file(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ServerError(file, f"no TOML ({error})", "correct the line") from error
    return {name: _convert(f"{file}: {name}", name, value) for name, value in values.items()}


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for field in fields(ServerSettings):
        variable = ENVIRONMENT_PREFIX + field.name.upper()
        if variable in environment:
            values[field.name] = _convert(variable, field.name, environment[variable])
    return values


def _convert(subject: str, name: str, value: Any) -> Any:
    """Return a value of a file or of the environment in the type of its setting."""
    if name not in _TYPES:
        raise ServerError(subject, "no such setting", f"choose from: {', '.join(_TYPES)}")
    kind = str(_TYPES[name])
    try:
        if "tuple" in kind:
            entries = value.split(",") if isinstance(value, str) else value
            return tuple(str(entry).strip() for entry in entries if str(entry).strip())
        if "bool" in kind:
            return _to_bool(value)
        if "int" in kind or "float" in kind:
            if isinstance(value, bool):
                raise ValueError(value)
            return int(value) if "int" in kind else float(value)
        if not isinstance(value, str):
            raise ValueError(value)
    except (ValueError, TypeError):
        # the value may be a key: it is not repeated
        raise ServerError(subject, "a value of the wrong type", f"give {kind}") from None
    return value


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]
