"""The Open Inference Protocol (KServe v2), as Triton serves it: `/v2`.

A model has the inputs `text` (BYTES, UTF-8), `image` (BYTES, the content of picture files; in JSON,
base64) and `pixel_values` (FP32, as the model's preprocessing gives them), and the outputs
`text_embeds` and `image_embeds` (FP32, unit length).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from twotower.arrays import Float32Array
from twotower.serve.endpoint import Call, Endpoint, Handler, parse_json, validate
from twotower.serve.errors import RequestError, text_error
from twotower.serve.models import EmbeddedPicture, ServedModel
from twotower.serve.protocols import kserve_schema as schema
from twotower.serve.protocols.tensors import (
    decode_bytes,
    decode_floats,
    encode_floats,
    floats_of_json,
    split_body,
    split_tensors,
    texts_of_json,
)
from twotower.serve.request_pictures import read_pictures
from twotower.version import __version__

HEADER_LENGTH = "Inference-Header-Content-Length"
_TAG = "kserve"


@dataclass(frozen=True)
class _Input:
    """An input with its binary content, which is None for a tensor in JSON."""

    description: schema.RequestInput
    content: memoryview | None

    @property
    def rows(self) -> int:
        return self.description.shape[0]


async def server_metadata(call: Call) -> Response:
    """Describe the server."""
    extensions = ["binary_tensor_data", "model_configuration"]
    return _json(schema.ServerMetadata(name="twotower", version=__version__, extensions=extensions))


async def server_live(call: Call) -> Response:
    """Answer as long as the process does."""
    return _json(schema.Live(live=True))


async def server_ready(call: Call) -> Response:
    """Answer once the models are loaded."""
    call.server.require_ready()
    return _json(schema.Ready(ready=True))


async def model_metadata(call: Call) -> Response:
    """Describe the tensors of a model."""
    return _json(schema.describe_model(_find_model(call)))


async def model_config(call: Call) -> Response:
    """Describe the tensors of a model in Triton's form."""
    return _json(schema.configure_model(_find_model(call), call.server.settings.max_items))


async def model_ready(call: Call) -> Response:
    """Answer once a model is loaded."""
    model = _find_model(call)
    call.server.require_ready()
    return _json(schema.ModelReady(name=model.name, ready=True))


async def repository_index(call: Call) -> Response:
    """List the models."""
    state = "READY" if call.server.ready.is_set() else "LOADING"
    return JSONResponse(
        [
            {"name": name, "version": schema.VERSION, "state": state, "reason": ""}
            for name in call.server.models.models
        ]
    )


async def infer(call: Call) -> Response:
    """Embed the inputs of a request."""
    model = _find_model(call)
    request, inputs = _read_request(call)
    names = [tensor.name for tensor in request.outputs] or [
        schema.OUTPUT_OF[name] for name in inputs
    ]
    by_output = {schema.OUTPUT_OF[name]: tensor for name, tensor in inputs.items()}
    for index, name in enumerate(names):
        if name not in by_output:
            raise RequestError(400, f"no input gives the output {name[:40]!r}")
        if name in names[:index]:
            raise RequestError(400, f"the output {name!r} is asked for twice")
    outputs = await asyncio.gather(*(_embed(call, model, by_output[name]) for name in names))
    return _answer(request, model, dict(zip(names, outputs, strict=True)))


def _find_model(call: Call) -> ServedModel:
    parameters = call.request.path_params
    if (version := parameters.get("version", schema.VERSION)) != schema.VERSION:
        raise RequestError(404, f"there is no version {version!r} of a model; there is 1")
    return call.server.models.find(parameters["name"])


def _read_request(call: Call) -> tuple[schema.InferRequest, dict[str, _Input]]:
    """Return a request and its inputs by name. Raises `RequestError` 400 or 422."""
    header, content = split_body(call.body, call.request.headers.get(HEADER_LENGTH))
    try:
        content_of_header = parse_json(header)
    except RequestError as error:
        raise RequestError(400, f"{error.message}; binary tensors need {HEADER_LENGTH}") from error
    request = validate(schema.InferRequest, content_of_header)
    sizes = [tensor.parameters.binary_data_size for tensor in request.inputs]
    tensors = iter(split_tensors(content, [size for size in sizes if size is not None]))
    inputs: dict[str, _Input] = {}
    for description, size in zip(request.inputs, sizes, strict=True):
        if description.name in inputs:
            raise RequestError(400, f"the input {description.name!r} is given twice")
        tensor = _Input(description, next(tensors) if size is not None else None)
        _check_input(tensor, call.server.settings.max_items)
        inputs[description.name] = tensor
    if schema.IMAGE in inputs and schema.PIXEL_VALUES in inputs:
        raise RequestError(400, "image and pixel_values are in one request; give one of them")
    for output in request.outputs:
        if output.parameters.classification or output.parameters.shared_memory_region:
            raise RequestError(400, "classification and shared memory are not supported")
    return request, inputs


def _check_input(tensor: _Input, max_items: int) -> None:
    """Check an input but for its content. Raises `RequestError` 400."""
    description = tensor.description
    name, shape = description.name, description.shape
    if name not in schema.OUTPUT_OF:
        raise RequestError(
            400, f"there is no input {name[:40]!r}; choose from: {', '.join(schema.OUTPUT_OF)}"
        )
    datatype = "FP32" if name == schema.PIXEL_VALUES else "BYTES"
    if description.datatype != datatype:
        raise RequestError(400, f"{name} is {description.datatype[:20]!r}; send {datatype}")
    if description.parameters.shared_memory_region:
        raise RequestError(400, "shared memory is not supported")
    if (tensor.content is None) == (description.data is None):
        raise RequestError(400, f"{name} needs either data or binary_data_size")
    if datatype == "BYTES" and not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise RequestError(400, f"{name} has the shape {shape[:8]}; send [n] or [n, 1]")
    if not 0 < tensor.rows <= max_items:
        raise RequestError(400, f"{name} has the shape {shape[:8]}; send 1 to {max_items} rows")


async def _embed(call: Call, model: ServedModel, tensor: _Input) -> Float32Array:
    """Return the embeds [n, embed_dim] of an input. Raises `RequestError`."""
    name = tensor.description.name
    if name == schema.PIXEL_VALUES:
        return await model.embed_pixels(_pixel_values(model, tensor))
    if name == schema.TEXT:
        return await model.embed_texts(_texts(tensor))
    contents: list[bytes | RequestError] = []
    if tensor.content is None:
        references = texts_of_json(tensor.description.data, tensor.description.shape)
        contents += await read_pictures(references, call.server.settings)
    else:
        contents += decode_bytes(tensor.content, tensor.rows)
    return _stack(await model.embed_pictures(contents))


def _texts(tensor: _Input) -> list[str]:
    if tensor.content is None:
        return texts_of_json(tensor.description.data, tensor.description.shape)
    try:
        return [element.decode() for element in decode_bytes(tensor.content, tensor.rows)]
    except UnicodeDecodeError as error:
        raise RequestError(400, f"text is no UTF-8 ({error.reason})") from error


def _pixel_values(model: ServedModel, tensor: _Input) -> Float32Array:
    shape = tensor.description.shape
    *_, pixels = schema.describe_model(model).inputs
    if shape[1:] != pixels.shape[1:]:
        raise RequestError(
            400, f"pixel_values has the shape {shape[:8]}; the model reads {pixels.shape}"
        )
    if tensor.content is None:
        values = floats_of_json(tensor.description.data, shape)
    else:
        values = decode_floats(tensor.content, shape)
    if not math.isfinite(float(np.abs(values).max())):
        raise RequestError(400, "pixel_values has numbers that are not finite")
    return values


def _stack(outcomes: list[EmbeddedPicture | RequestError]) -> Float32Array:
    """Return the embeds of pictures, or raise the first error with the place of its picture."""
    rows = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, RequestError):
            raise RequestError(outcome.status, f"image[{index}]: {outcome.message}")
        rows.append(outcome.image_embeds)
    return np.stack(rows)


def _answer(
    request: schema.InferRequest, model: ServedModel, embeds: dict[str, Float32Array]
) -> Response:
    forms = {output.name: output.parameters.binary_data for output in request.outputs}
    outputs, payloads = [], []
    for name, rows in embeds.items():
        form = forms.get(name)
        output = schema.AnswerOutput(name=name, shape=list(rows.shape))
        if request.parameters.binary_data_output if form is None else form:
            payloads.append(encode_floats(rows))
            output.parameters = {"binary_data_size": len(payloads[-1])}
        else:
            output.data = rows.ravel().tolist()
        outputs.append(output)
    answer = schema.InferAnswer(model_name=model.name, id=request.id, outputs=outputs)
    if not payloads:
        return _json(answer)
    header = answer.model_dump_json(exclude_none=True).encode()
    return Response(
        b"".join((header, *payloads)),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(header))},
    )


def _json(answer: BaseModel) -> Response:
    return JSONResponse(answer.model_dump(exclude_none=True))


def _get(
    path: str, handler: Handler, summary: str, answer: type[BaseModel], *, public: bool = False
) -> Endpoint:
    return Endpoint(
        path, ("GET",), handler, _TAG, summary, answer=answer, errors=text_error, public=public
    )


def _model_endpoints(model: str) -> tuple[Endpoint, ...]:
    """Return the endpoints of models below a path; the longer paths come first."""
    return (
        Endpoint(
            f"{model}/infer",
            ("POST",),
            infer,
            _TAG,
            "Embed texts, pictures or pixels.",
            body=schema.InferRequest,
            answer=schema.InferAnswer,
            errors=text_error,
        ),
        _get(f"{model}/ready", model_ready, "Is the model loaded?", schema.ModelReady),
        _get(f"{model}/config", model_config, "Triton's configuration.", schema.ModelConfig),
        _get(model, model_metadata, "The tensors of a model.", schema.ModelMetadata),
    )


# names of models may have slashes, so that paths with a version come first
ENDPOINTS = (
    _get("/v2", server_metadata, "The server.", schema.ServerMetadata),
    _get("/v2/health/live", server_live, "Is the process alive?", schema.Live, public=True),
    _get("/v2/health/ready", server_ready, "Are the models loaded?", schema.Ready, public=True),
    Endpoint(
        "/v2/repository/index",
        ("POST",),
        repository_index,
        _TAG,
        "The models.",
        answer=schema.ModelStates,
        errors=text_error,
    ),
    *_model_endpoints("/v2/models/{name:path}/versions/{version}"),
    *_model_endpoints("/v2/models/{name:path}"),
)
