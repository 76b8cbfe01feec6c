"""Endpoints: a path, a handler, the shape of errors, and what OpenAPI says of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from twotower.errors import TwotowerError
from twotower.serve.errors import ErrorShape, RequestError, plain_error

if TYPE_CHECKING:
    from twotower.serve.server import Server

Model = TypeVar("Model", bound=BaseModel)


def _to_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# JSON Schema's integer: 5.0 is one, "5" and true are none
Integer = Annotated[int, BeforeValidator(_to_integer), Field(strict=True)]
logger = logging.getLogger("twotower.serve")


@dataclass(frozen=True)
class Call:
    """A request whose body has arrived.

    Attributes:
        body: decompressed if it was sent with `Content-Encoding: gzip` or `deflate`.
        server: the models, the library and the settings.
    """

    request: Request
    body: bytes
    server: Server

    def json(self) -> Any:
        """Parse the body as JSON, whatever its content type.

        Raises:
            RequestError: 400, it is no JSON.
        """
        return parse_json(self.body)

    async def form(self) -> FormData:
        """Parse the body as a form, `multipart/form-data` or URL-encoded.

        Raises:
            RequestError: 400, it is no form.
        """

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": self.body, "more_body": False}

        try:
            return await Request(self.request.scope, receive).form(
                max_files=self.server.settings.max_items, max_part_size=len(self.body) + 1
            )
        except Exception as error:  # starlette's and python-multipart's have no common class
            raise RequestError(400, f"the body is no form ({error})") from error

    def parse(self, model: type[Model]) -> Model:
        """Parse the body as JSON of a pydantic model.

        Raises:
            RequestError: 400, it is no JSON; 422, a field is missing or wrong.
        """
        return validate(model, self.json())


def parse_json(content: str | bytes) -> Any:
    """Return the value of JSON.

    Raises:
        RequestError: 400, it is no JSON, or has half of a surrogate pair, which UTF-8 cannot hold.
    """
    escape = "\\u" if isinstance(content, str) else b"\\u"
    try:
        value = json.loads(content)
        if escape in content:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"no JSON ({error})") from error
    return value


def validate(model: type[Model], content: Any) -> Model:
    """Return content as a pydantic model.

    Raises:
        RequestError: 422, naming the first field that is missing or wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(map(str, fault["loc"]))
        message = "give a JSON object" if fault["type"] == "model_type" else fault["msg"]
        raise RequestError(422, f"{name or 'body'}: {message}", field=name) from error


Handler: TypeAlias = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """A handler at a path.

    Attributes:
        path: in starlette's form, with `{name}` and `{name:path}`.
        methods: such as ("POST",).
        tag: the protocol, for grouping in OpenAPI.
        summary: one line.
        body: the model of the JSON body, for OpenAPI; None for no body.
        content: for OpenAPI, the schema of bodies by content type, where they can be no JSON.
        answer: the model of the JSON answer, for OpenAPI; None for other contents.
        status: of the answer.
        media_types: of the answer, if it is no JSON; for OpenAPI.
        query: for OpenAPI, the schema of each query parameter.
        errors: the shape of errors.
        public: answered without an API key, as for health checks.
    """

    path: str
    methods: tuple[str, ...]
    handler: Handler
    tag: str
    summary: str
    body: type[BaseModel] | None = None
    content: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    answer: type[BaseModel] | None = None
    status: int = 200
    media_types: tuple[str, ...] = ()
    query: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    errors: ErrorShape = plain_error
    public: bool = False


def to_routes(endpoints: Iterable[Endpoint], server: Server) -> list[Route]:
    """Return a route for each path; other methods than those of its endpoints get 405."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for endpoint in endpoints:
        for method in endpoint.methods:
            by_path.setdefault(endpoint.path, {})[method] = endpoint
    return [_to_route(path, methods, server) for path, methods in by_path.items()]


def _to_route(path: str, methods: Mapping[str, Endpoint], server: Server) -> Route:
    async def answer(request: Request) -> Response:
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        with server.metrics.measure(path, request.method) as outcome:
            response = await _respond(endpoint, request, server)
            outcome.status = response.status_code
        return response

    return Route(path, answer, methods=list(methods))


async def _respond(endpoint: Endpoint, request: Request, server: Server) -> Response:
    try:
        if not endpoint.public:
            server.access.require(request)
        return await _answer(endpoint, request, server)
    except RequestError as error:
        return endpoint.errors(error)
    except TwotowerError as error:
        return endpoint.errors(RequestError(400, str(error)))
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception:
        logger.exception("%s %s failed", request.method, endpoint.path)
        return endpoint.errors(RequestError(500, "the server failed; its log has the reason"))


async def _answer(endpoint: Endpoint, request: Request, server: Server) -> Response:
    settings = server.settings
    try:
        async with asyncio.timeout(settings.body_seconds):
            body = await _read_body(request, settings.max_body_mb * 2**20)
    except TimeoutError:
        raise RequestError(
            408, f"the body did not arrive within {settings.body_seconds:g} s"
        ) from None
    handler = asyncio.ensure_future(endpoint.handler(Call(request, body, server)))
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        done, _ = await asyncio.wait(
            (handler, disconnect),
            timeout=settings.request_seconds,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if handler in done:
            return handler.result()
        if disconnect in done:
            raise ClientDisconnect
        raise RequestError(504, f"not answered within {settings.request_seconds:g} s")
    finally:
        for task in (handler, disconnect):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await handler


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the decompressed body. Raises `RequestError` 400, 413 or 415."""
    too_large = RequestError(413, f"the body is larger than {limit // 2**20} MB")
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        else:  # read to its end all the same: many clients read no answer before they have sent all
            body.clear()
    if size > limit:
        raise too_large
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return bytes(body)
    return _decompress(bytes(body), encoding, limit, too_large)


def _decompress(body: bytes, encoding: str, limit: int, too_large: RequestError) -> bytes:
    if encoding not in ("gzip", "deflate"):
        raise RequestError(415, f"Content-Encoding {encoding!r} is unknown; send gzip or deflate")
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(400, f"the body is no {encoding} ({error})") from error
    if len(content) > limit:
        raise too_large
    return content


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has closed the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
