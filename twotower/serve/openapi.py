"""The OpenAPI description of the endpoints, made from what each declares."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from twotower.version import __version__

if TYPE_CHECKING:
    from pydantic import BaseModel

    from twotower.serve.endpoint import Endpoint

_COMPONENT = "#/components/schemas/{model}"
_ERRORS = {
    "400": "The request cannot be used.",
    "401": "The API key is missing or wrong.",
    "403": "The server was started without --allow-writes.",
    "404": "There is no such model, picture or setting.",
    "409": "Nothing is indexed yet, or indexing runs.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The encoding of the body is unknown.",
    "422": "A field is wrong, or a picture cannot be decoded.",
    "429": "Too many requests are waiting; `Retry-After` has the seconds to wait.",
    "503": "The server starts or shuts down.",
    "504": "The request was not answered in time.",
}


def describe(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """Return the description, OpenAPI 3.1."""
    endpoints = list(endpoints)
    models = {
        model for endpoint in endpoints for model in (endpoint.body, endpoint.answer) if model
    }
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_COMPONENT
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", endpoint.path)
        for method in endpoint.methods:
            paths.setdefault(path, {})[method.lower()] = _operation(endpoint, path, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "twotower", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, path: str, method: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": [*_path_parameters(path), *_query_parameters(endpoint)],
        "responses": {
            str(endpoint.status): {"description": "The answer.", "content": _answer(endpoint)},
            **{status: {"description": text} for status, text in _ERRORS.items()},
        },
        "security": [] if endpoint.public else [{"key": []}, {}],
    }
    if method not in ("GET", "HEAD", "DELETE"):
        if endpoint.body is not None:
            content = {"application/json": {"schema": _reference(endpoint.body)}}
            operation["requestBody"] = {"required": True, "content": content}
        elif endpoint.content:
            content = {kind: {"schema": schema} for kind, schema in endpoint.content.items()}
            operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in endpoint.query.items()
    ]


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.answer is None:
        return {media_type: {"schema": {}} for media_type in endpoint.media_types}
    return {"application/json": {"schema": _reference(endpoint.answer)}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _COMPONENT.format(model=model.__name__)}
