"""Requests and answers of the Open Inference Protocol, and the tensors of a served model.

The protocol is kserve/open-inference-protocol, `specification/protocol/inference_rest.md`;
`config` and `repository/index` are Triton's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from twotower.serve.endpoint import Integer
from twotower.serve.models import ServedModel

VERSION = "1"  # of every served model
TEXT, IMAGE, PIXEL_VALUES = "text", "image", "pixel_values"
TEXT_EMBEDS, IMAGE_EMBEDS = "text_embeds", "image_embeds"
OUTPUT_OF = {TEXT: TEXT_EMBEDS, IMAGE: IMAGE_EMBEDS, PIXEL_VALUES: IMAGE_EMBEDS}
Size = Annotated[Integer, Field(ge=0)]


class _OpenModel(BaseModel):
    """A part of a request; further fields and parameters are allowed and ignored."""

    model_config = ConfigDict(extra="allow")


class InputParameters(_OpenModel):
    """The bytes of a binary tensor; without them, the tensor is JSON."""

    binary_data_size: Size | None = None
    shared_memory_region: str | None = None


class RequestInput(_OpenModel):
    """A tensor of a request."""

    name: str
    shape: Annotated[list[Size], Field(min_length=1)]
    datatype: str
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_OpenModel):
    """The form of an output."""

    binary_data: Annotated[bool, Field(strict=True)] | None = None
    classification: Size | None = None
    shared_memory_region: str | None = None


class RequestOutput(_OpenModel):
    """An output to return."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_OpenModel):
    """The form of outputs that do not set their own."""

    binary_data_output: Annotated[bool, Field(strict=True)] = False


class InferRequest(_OpenModel):
    """A request for inference; without `outputs`, all that the inputs give."""

    id: str | None = None
    inputs: Annotated[list[RequestInput], Field(min_length=1)]
    outputs: list[RequestOutput] = []
    parameters: RequestParameters = RequestParameters()


class AnswerOutput(BaseModel):
    """An output: numbers in row-major order, or binary with its size as a parameter."""

    name: str
    datatype: Literal["FP32"] = "FP32"
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | None = None


class InferAnswer(BaseModel):
    """The outputs of a request."""

    model_config = ConfigDict(protected_namespaces=())
    model_name: str
    model_version: str = VERSION
    id: str | None = None
    outputs: list[AnswerOutput]


class ServerMetadata(BaseModel):
    """The server and its extensions of the protocol."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 is any number of rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model; a request has `text`, and one of `image` and `pixel_values`, or either."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(BaseModel):
    """An input or output in Triton's form, without its first axis."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool | None = None


class ModelConfig(BaseModel):
    """A model in Triton's form."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Live(BaseModel):
    """The state of the process."""

    live: bool


class Ready(BaseModel):
    """The state of all models."""

    ready: bool


class ModelReady(BaseModel):
    """The state of a model."""

    name: str
    ready: bool


class ModelState(BaseModel):
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str


class ModelStates(RootModel[list[ModelState]]):
    """The models of the repository."""


def describe_model(model: ServedModel) -> ModelMetadata:
    """Return the tensors of a model."""
    preprocess = model.encoder.config.preprocess
    pixels = [-1, preprocess.channels, preprocess.image_size, preprocess.image_size]
    return ModelMetadata(
        name=model.name,
        versions=[VERSION],
        platform="twotower",
        inputs=[
            TensorMetadata(name=TEXT, datatype="BYTES", shape=[-1, 1]),
            TensorMetadata(name=IMAGE, datatype="BYTES", shape=[-1, 1]),
            TensorMetadata(name=PIXEL_VALUES, datatype="FP32", shape=pixels),
        ],
        outputs=[
            TensorMetadata(name=name, datatype="FP32", shape=[-1, model.embed_dim])
            for name in (TEXT_EMBEDS, IMAGE_EMBEDS)
        ],
    )


def configure_model(model: ServedModel, max_items: int) -> ModelConfig:
    """Return the tensors of a model in Triton's form."""
    metadata = describe_model(model)
    return ModelConfig(
        name=model.name,
        platform=metadata.platform,
        backend="twotower",
        max_batch_size=max_items,
        input=[_tensor_config(tensor, optional=True) for tensor in metadata.inputs],
        output=[_tensor_config(tensor) for tensor in metadata.outputs],
    )


def _tensor_config(tensor: TensorMetadata, *, optional: bool | None = None) -> TensorConfig:
    data_type = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}[tensor.datatype]
    return TensorConfig(
        name=tensor.name, data_type=data_type, dims=tensor.shape[1:], optional=optional
    )
