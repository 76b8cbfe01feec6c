"""Endpoints for operating the server: health, readiness, metrics and its description."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from twotower.serve.endpoint import Call, Endpoint

_TAG = "operations"


async def live(call: Call) -> Response:
    """Answer as long as the process does."""
    return JSONResponse({"status": "alive"})


async def ready(call: Call) -> Response:
    """Answer once the models are loaded."""
    call.server.require_ready()
    return JSONResponse({"status": "ready", "models": list(call.server.models.models)})


async def metrics(call: Call) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(
        call.server.metrics.expose(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


ENDPOINTS = (
    Endpoint("/healthz", ("GET",), live, _TAG, "Is the process alive?", public=True),
    Endpoint("/readyz", ("GET",), ready, _TAG, "Are the models loaded?", public=True),
    Endpoint("/metrics", ("GET",), metrics, _TAG, "Prometheus metrics."),
)
