"""Tasks of Hugging Face's Inference clients, each at a path of its own: `/hf/MODEL/TASK`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt
from starlette.responses import JSONResponse, Response

from twotower.arrays import Float32Array
from twotower.encode.prompts import EVERYDAY_WORDS
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError, text_error
from twotower.serve.models import ServedModel
from twotower.serve.protocols.items import embed_items
from twotower.serve.protocols.openai_inputs import items_of_input
from twotower.serve.request_pictures import read_picture

_TAG = "Hugging Face"
_HYPOTHESIS = "This is a photo of {}."  # the default of transformers' pipeline
_TOP = 5  # of answers and classes, the default of transformers' pipelines

Top = Annotated[StrictInt, Field(ge=1)]
Function = Literal["softmax", "sigmoid"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class PictureInput(_Body):
    """A picture in base64, as the JavaScript client sends it."""

    image: str


class ZeroShotParameters(_Body):
    """Labels, as a list or separated by commas, and a sentence with `{}` for the label."""

    candidate_labels: list[str] | str
    hypothesis_template: str | None = None


class ZeroShotRequest(_Body):
    """A picture in base64, and labels to choose from."""

    inputs: str | PictureInput
    parameters: ZeroShotParameters


class LabelScore(BaseModel):
    """A label and its probability."""

    label: str
    score: float


class LabelScores(RootModel[list[LabelScore]]):
    """Labels, the most probable at the front."""


class FeatureRequest(_Body):
    """Texts, or pictures as data URIs. Embeddings have unit length whatever `normalize` says."""

    inputs: str | list[str]
    normalize: StrictBool | None = None
    truncate: StrictBool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: None = None
    dimensions: StrictInt | None = None
    encoding_format: Literal["float"] | None = None


class Features(RootModel[list[list[float]]]):
    """Embeddings in the order of the request."""


class QuestionInput(_Body):
    """A picture in base64, and a question."""

    image: str
    question: str


class TopParameters(_Body):
    """The number of replies."""

    top_k: Top | None = None


class QuestionRequest(_Body):
    """A question about a picture: in `inputs`, or beside it as the Python client sends it."""

    inputs: str | QuestionInput
    question: str | None = None
    parameters: TopParameters | None = None


class AnswerScore(BaseModel):
    """An answer and its probability."""

    answer: str
    score: float


class AnswerScores(RootModel[list[AnswerScore]]):
    """Answers, the most probable at the front."""


class ClassificationParameters(TopParameters):
    """Labels in place of everyday words; the function of the probabilities is the model's own."""

    candidate_labels: list[str] | str | None = None
    function_to_apply: Function | None = None


class ClassificationRequest(_Body):
    """A picture in base64."""

    inputs: str
    parameters: ClassificationParameters | None = None


def hugging_face_error(error: RequestError) -> Response:
    """Return `{"error": "text"}`, never with status 503, which the JavaScript client repeats."""
    if error.status != 503:
        return text_error(error)
    return text_error(RequestError(500, error.message, field=error.field, headers=error.headers))


async def zero_shot_image_classification(call: Call) -> Response:
    """Choose among labels for a picture."""
    body = call.parse(ZeroShotRequest)
    served = _model(call)
    picture = body.inputs if isinstance(body.inputs, str) else body.inputs.image
    labels = _labels(body.parameters.candidate_labels)
    template = body.parameters.hypothesis_template or _HYPOTHESIS
    content = await read_picture(picture, call.server.settings)
    return JSONResponse(await _classify(served, content, labels, template))


async def feature_extraction(call: Call) -> Response:
    """Embed texts, or a picture that is the body."""
    served = _model(call)
    if _is_picture(call):
        embedded = await served.embed_picture(call.body)
        return JSONResponse([embedded.image_embeds.tolist()])
    body = call.parse(FeatureRequest)
    if body.dimensions not in (None, served.embed_dim):
        raise RequestError(
            400,
            f"{served.name} has {served.embed_dim} dimensions, which cannot be changed",
            field="dimensions",
        )
    cut = "START" if (body.truncation_direction or "").lower() == "left" else "END"
    truncation: Any = "NONE" if body.truncate is False else cut
    items = items_of_input(body.inputs, None)
    embeds = (await embed_items(items, served, call.server.settings, truncation)).embeds
    return JSONResponse(embeds.tolist())


async def visual_question_answering(call: Call) -> Response:
    """Answer a question about a picture."""
    body = call.parse(QuestionRequest)
    served = _model(call)
    if isinstance(body.inputs, str):
        picture, question = body.inputs, body.question
    else:
        picture, question = body.inputs.image, body.inputs.question
    if not question:
        raise RequestError(400, "ask a question", field="question")
    content = await read_picture(picture, call.server.settings)
    top = (body.parameters and body.parameters.top_k) or _TOP
    answered = await served.answer(content, question, top)
    return JSONResponse(
        [{"score": reply.probability, "answer": reply.answer} for reply in answered.replies]
    )


async def image_classification(call: Call) -> Response:
    """Choose among labels, or everyday words, for a picture that is the body or in JSON."""
    served = _model(call)
    parameters = ClassificationParameters()
    if _is_picture(call):
        content = call.body
    else:
        body = call.parse(ClassificationRequest)
        content = await read_picture(body.inputs, call.server.settings)
        parameters = body.parameters or parameters
    function = "softmax" if served.encoder.logit_bias is None else "sigmoid"
    if parameters.function_to_apply not in (None, function):
        raise RequestError(
            400,
            f"the probabilities of {served.name} come from {function}",
            field="parameters.function_to_apply",
        )
    words = parameters.candidate_labels or call.request.query_params.get("labels")
    labels = _labels(words) if words else EVERYDAY_WORDS
    scores = await _classify(served, content, labels, None)
    return JSONResponse(scores[: parameters.top_k or _TOP])


def _model(call: Call) -> ServedModel:
    return call.server.models.find(call.request.path_params["model"])


def _labels(labels: Sequence[str] | str) -> list[str]:
    return labels.split(",") if isinstance(labels, str) else list(labels)


def _is_picture(call: Call) -> bool:
    """Return True if the body is a picture: clients send a wrong content type, or none."""
    begins_json = call.body.lstrip()[:1] in (b"{", b"[", b'"')
    return not begins_json and "json" not in call.request.headers.get("content-type", "")


async def _classify(
    served: ServedModel, content: bytes, labels: Sequence[str], template: str | None
) -> list[dict[str, Any]]:
    """Return labels with their scores, the most probable at the front."""
    picture = await served.embed_picture(content)
    probabilities: Float32Array = await served.zero_shot(picture.image_embeds, labels, template)
    scores = [
        {"label": label.strip(), "score": float(probability)}
        for label, probability in zip(labels, probabilities, strict=True)
    ]
    return sorted(scores, key=lambda entry: float(entry["score"]), reverse=True)


_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}

ENDPOINTS = (
    Endpoint(
        "/hf/{model:path}/zero-shot-image-classification",
        ("POST",),
        zero_shot_image_classification,
        _TAG,
        "Choose among labels for a picture.",
        body=ZeroShotRequest,
        answer=LabelScores,
        errors=hugging_face_error,
    ),
    Endpoint(
        "/hf/{model:path}/feature-extraction",
        ("POST",),
        feature_extraction,
        _TAG,
        "Embed texts or a picture.",
        body=FeatureRequest,
        content={"image/*": _BINARY},
        answer=Features,
        errors=hugging_face_error,
    ),
    Endpoint(
        "/hf/{model:path}/visual-question-answering",
        ("POST",),
        visual_question_answering,
        _TAG,
        "Answer a question about a picture.",
        body=QuestionRequest,
        answer=AnswerScores,
        errors=hugging_face_error,
    ),
    Endpoint(
        "/hf/{model:path}/image-classification",
        ("POST",),
        image_classification,
        _TAG,
        "Name what a picture shows, in everyday words or the labels of the query.",
        body=ClassificationRequest,
        content={"image/*": _BINARY},
        answer=LabelScores,
        query={"labels": {"type": "string", "description": "separated by commas"}},
        errors=hugging_face_error,
    ),
)
