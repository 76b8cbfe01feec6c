"""The clients that people use, against the real server; each as it is installed from its index."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serve.calls import (
    PHOTOS,
    assert_equal_embeds,
    data_uri,
    from_base64,
    local_photo,
    local_text,
    photo,
)
from tests.serve.running import running_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]
SCRIPTS = Path(__file__).parent / "clients"
PYTHON_CLIENTS = ("infinity-client==0.0.78", "cohere>=7.3,<8", "langchain-openai>=1.7,<2")
NODE_CLIENTS = ("openai@6.49.0", "@huggingface/inference@4.13.30")
TEXTS = ("a cat", "a dog")


@pytest.fixture(scope="session")
def python_clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages, apart from the environment of the tests."""
    folder = tmp_path_factory.mktemp("python-clients")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*install, *PYTHON_CLIENTS], check=True)
    return folder


@pytest.fixture(scope="session")
def node_clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts and the packages of npm."""
    if shutil.which("npm") is None and not os.environ.get("CI"):
        pytest.skip("needs npm and node")
    folder = tmp_path_factory.mktemp("node-clients")
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", *NODE_CLIENTS], cwd=folder, check=True
    )
    return folder


def run_json(command: list[str], **options: Any) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def run_python(script: str, packages: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return run_json(command, env={**os.environ, "PYTHONPATH": str(packages)})


def assert_texts(rows: Any, texts: tuple[str, ...] = TEXTS) -> None:
    assert len(rows) == len(texts)
    for row, text in zip(rows, texts, strict=True):
        assert_equal_embeds(row, local_text(text))


# --- openai for Python ---------------------------------------------------------------------------


@pytest.fixture
def openai_client(models_url: str) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{models_url}/v1", api_key="key") as client:
        yield client


def test_openai(openai_client: Any) -> None:
    for options in ({}, {"encoding_format": "float"}, {"user": "somebody", "dimensions": 512}):
        answer = openai_client.embeddings.create(model="small", input=list(TEXTS), **options)
        assert_texts([row.embedding for row in answer.data])
        assert answer.usage.prompt_tokens > 4
    raw = openai_client.embeddings.create(model="small", input="a cat", encoding_format="base64")
    assert_equal_embeds(from_base64(raw.data[0].embedding), local_text("a cat"))
    assert [model.id for model in openai_client.models.list()] == ["twotower-small"]
    assert openai_client.models.retrieve("small").id == "twotower-small"


def test_openai_asynchronously(models_url: str) -> None:
    openai = pytest.importorskip("openai")

    async def embed() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{models_url}/v1", api_key="key") as client:
            create = client.embeddings.create
            return list(await asyncio.gather(*(create(model="small", input=t) for t in TEXTS * 8)))

    for answer, text in zip(asyncio.run(embed()), TEXTS * 8, strict=True):
        assert_equal_embeds(answer.data[0].embedding, local_text(text))


def test_openai_errors_have_their_types(openai_client: Any) -> None:
    import openai

    create = openai_client.embeddings.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="other", input="a")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="token ids") as tokens:
        create(model="small", input=[1, 2])
    assert tokens.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="empty"):
        create(model="small", input=["a", ""])
    with pytest.raises(openai.BadRequestError, match="cannot be used"):
        create(model="small", input=["AAAA"], extra_body={"modality": "image"})


def test_openai_with_keys_and_retries() -> None:
    import openai

    options = ["--model", "small", "--max-queue", "1"]
    with running_server(options, {"TWOTOWER_SERVE_API_KEY": "right"}) as url:
        base = f"{url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=base, api_key="wrong").embeddings.create(model="", input="a")

        def embed(retries: int) -> Any:
            client = openai.OpenAI(base_url=base, api_key="right", max_retries=retries)
            try:
                return client.embeddings.create(model="small", input=["a cat"] * 64)
            except openai.RateLimitError as error:
                return error

        with ThreadPoolExecutor(12) as pool:
            outcomes = list(pool.map(embed, [0] * 12))
            errors = [error for error in outcomes if isinstance(error, openai.RateLimitError)]
            assert errors and len(errors) < 12  # one request at least finds the queue empty
            assert all(int(error.response.headers["retry-after"]) >= 1 for error in errors)
            for outcome in pool.map(embed, [60] * 12):
                assert_equal_embeds(outcome.data[63].embedding, local_text("a cat"))


def test_dialects_through_openai(openai_client: Any) -> None:
    from openai.types import CreateEmbeddingResponse

    uri = data_uri("cat.jpg")
    infinity = openai_client.embeddings.create(
        model="small", input=[uri], extra_body={"modality": "image"}
    )
    content = [{"type": "image_url", "image_url": {"url": uri}}]
    vllm = openai_client.post(
        "/embeddings",
        body={"model": "small", "messages": [{"role": "user", "content": content}]},
        cast_to=CreateEmbeddingResponse,
    )
    jina = openai_client.embeddings.create(model="small", input=[{"image": uri}])
    for answer in (infinity, vllm, jina):
        assert_equal_embeds(answer.data[0].embedding, local_photo("cat.jpg"))


# --- other clients of the same protocol ----------------------------------------------------------


def test_openai_for_node(models_url: str, node_clients: Path) -> None:
    answers = run_json(["node", "use_openai.mjs", models_url], cwd=node_clients)
    for form in ("base64", "float"):
        assert_texts([row["embedding"] for row in answers[form]])
    assert answers["models"] == ["twotower-small"] and answers["model"] == "twotower-small"
    assert answers["unknown"]["name"] == "NotFoundError"
    assert answers["unknown"]["code"] == "model_not_found"
    for name in ("tokens", "empty"):
        assert (answers[name]["name"], answers[name]["status"]) == ("BadRequestError", 400)


def test_infinity_client(models_url: str, python_clients: Path) -> None:
    cat = str(PHOTOS / "cat.jpg")
    answers = run_python("use_infinity.py", python_clients, models_url, cat)
    assert_texts(answers["texts"])
    for form in ("image", "earlier"):
        assert_equal_embeds(answers[form][0], local_photo("cat.jpg"))
    assert_equal_embeds(answers["vision_text"], local_text("a cat"))
    # this client compresses the picture again
    assert float(np.array(answers["vision_image"]) @ local_photo("cat.jpg")) > 0.98
    assert min(answers["tokens"]) > 0


def test_langchain(models_url: str, python_clients: Path) -> None:
    answers = run_python("use_langchain.py", python_clients, models_url)
    assert_equal_embeds(answers["query"], local_text("a cat"))
    for form in ("documents", "asynchronous"):
        assert_texts(answers[form])


# --- Cohere --------------------------------------------------------------------------------------


def test_cohere(models_url: str, python_clients: Path, tmp_path: Path) -> None:
    uri = tmp_path / "uri"
    uri.write_text(data_uri("cat.jpg"))
    answers = run_python("use_cohere.py", python_clients, models_url, str(uri))
    assert_texts(answers["texts"])
    assert_texts([from_base64(row) for row in answers["base64"]])
    assert answers["bytes"] == [512, 64]
    assert_equal_embeds(answers["image"][0], local_photo("cat.jpg"))
    assert_equal_embeds(answers["mixed"][0], local_text("a cat"))
    assert_equal_embeds(answers["mixed"][1], local_photo("cat.jpg"))
    names = [name for name, _, _ in answers["errors"]]
    assert names == ["NotFoundError", "UnprocessableEntityError", "BadRequestError"]
    assert all(message for _, _, message in answers["errors"])


# --- Hugging Face --------------------------------------------------------------------------------


def test_huggingface_hub(models_url: str) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    def client(task: str, model: str = "small") -> InferenceClient:
        return InferenceClient(f"{models_url}/hf/{model}/{task}")

    cat = PHOTOS / "cat.jpg"
    features = client("feature-extraction").feature_extraction(list(TEXTS), normalize=True)  # type: ignore[arg-type]
    assert_texts(features)
    (row,) = client("feature-extraction").feature_extraction(data_uri("cat.jpg"))
    assert_equal_embeds(row, local_photo("cat.jpg"))
    labels = client("zero-shot-image-classification").zero_shot_image_classification(
        cat, ["dog", "cat"], hypothesis_template="a photo of a {}"
    )
    assert [entry.label for entry in labels] == ["cat", "dog"] and labels[0].score > 0.9
    answers = client("visual-question-answering").visual_question_answering(
        cat, "is it a cat or a dog?", top_k=1
    )
    assert [entry.answer for entry in answers] == ["cat"]
    for options in ({}, {"top_k": 2}):
        classes = client("image-classification").image_classification(photo("cat.jpg"), **options)
        assert len(classes) == options.get("top_k", 5) and classes[0].label == "cat"
    with pytest.raises(HfHubHTTPError, match="cannot be used"):
        client("image-classification").image_classification(b"no picture")
    with pytest.raises(HfHubHTTPError, match="no model 'other' is served"):
        client("image-classification", "other").image_classification(cat)


def test_hugging_face_for_node(models_url: str, node_clients: Path) -> None:
    cat = str(PHOTOS / "cat.jpg")
    answers = run_json(["node", "use_hugging_face.mjs", models_url, cat], cwd=node_clients)
    assert_texts(answers["features"])
    assert [entry["label"] for entry in answers["zeroShot"]] == ["cat", "dog"]
    assert answers["answer"]["answer"] == "cat"
    assert answers["classes"][0]["label"] == "cat"
    assert "cannot be used" in answers["damaged"]
    assert "no model 'other' is served" in answers["unknown"]
