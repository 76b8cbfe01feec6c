from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import twotower
from tests.serve.calls import (
    PHOTOS,
    assert_equal_embeds,
    base64_photo,
    data_uri,
    local_photo,
    local_text,
    photo,
    post,
    send,
)
from twotower.asking.ask import ask
from twotower.encode.prompts import EVERYDAY_WORDS
from twotower.serve.errors import RequestError
from twotower.serve.protocols.hugging_face import hugging_face_error

CAT = base64_photo("cat.jpg")


@pytest.mark.parametrize("inputs", [CAT, {"image": CAT}, data_uri("cat.jpg")])
@pytest.mark.parametrize("labels", [["dog", "cat", "car"], "dog, cat,car"])
def test_zero_shot(models_url: str, inputs: Any, labels: Any) -> None:
    body = {"inputs": inputs, "parameters": {"candidate_labels": labels}}
    status, _, content = post(f"{models_url}/hf/small/zero-shot-image-classification", body)
    assert status == 200
    prompts = [f"This is a photo of {label}." for label in ("dog", "cat", "car")]
    model = twotower.load("small")
    logits = (
        model.logit_scale
        * np.array([local_text(text) for text in prompts])
        @ local_photo("cat.jpg")
    )
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert content[0]["label"] == "cat"
    scores = {entry["label"]: entry["score"] for entry in content}
    assert np.allclose([scores[name] for name in ("dog", "cat", "car")], expected, atol=1e-3)
    ordered = [entry["score"] for entry in content]
    assert ordered == sorted(ordered, reverse=True)


def test_the_hypothesis_template_counts(models_url: str) -> None:
    def scores(template: str) -> list[float]:
        parameters = {"candidate_labels": ["cat", "dog"], "hypothesis_template": template}
        path = "/hf/small/zero-shot-image-classification"
        answer = post(f"{models_url}{path}", {"inputs": CAT, "parameters": parameters})
        return [entry["score"] for entry in answer.content]

    assert scores("a drawing of a {}") != scores("a blurry {}")


@pytest.mark.parametrize("model", ["small", "twotower-small", "default"])
def test_features_of_texts(models_url: str, model: str) -> None:
    url = f"{models_url}/hf/{model}/feature-extraction"
    for inputs in ("a cat", ["a cat"]):
        status, _, content = post(url, {"inputs": inputs, "normalize": True})
        assert status == 200 and len(content) == 1
        assert_equal_embeds(content[0], local_text("a cat"))


def test_features_of_pictures(models_url: str) -> None:
    url = f"{models_url}/hf/small/feature-extraction"
    for headers in ({}, {"Content-Type": "application/octet-stream"}):
        status, _, content = send(url, photo("cat.jpg"), headers)
        assert status == 200 and len(content) == 1
        assert_equal_embeds(content[0], local_photo("cat.jpg"))
    status, _, content = post(url, {"inputs": [data_uri("dog.jpg"), "a cat"]})
    assert status == 200
    assert_equal_embeds(content[0], local_photo("dog.jpg"))
    assert_equal_embeds(content[1], local_text("a cat"))


def test_truncation(models_url: str) -> None:
    url = f"{models_url}/hf/small/feature-extraction"
    text = "a red car on a road " * 60 + "two small kittens in a basket"

    def similarity(**options: Any) -> float:
        (row,) = post(url, {"inputs": text, **options}).content
        return float(np.array(row) @ local_text("two small kittens in a basket"))

    assert similarity(truncate=True, truncation_direction="left") > similarity() + 0.1
    assert similarity(truncation_direction="Right") == pytest.approx(similarity(), abs=1e-4)
    assert post(url, {"inputs": text, "truncate": False}).status == 400


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("cat.jpg", "is it a cat or a dog?"),
        ("oranges.jpg", "what colour is the fruit?"),  # answered with the trained head
        ("dog.jpg", "is there a cat?"),
    ],
)
def test_answers_are_those_of_ask(models_url: str, name: str, question: str) -> None:
    url = f"{models_url}/hf/small/visual-question-answering"
    picture = base64_photo(name)
    (expected,) = ask(PHOTOS / name, question, model=twotower.load("small"), top=2)
    python_form = {"inputs": picture, "image": picture, "question": question}
    javascript_form = {"inputs": {"image": picture, "question": question}}
    for body in (python_form, javascript_form):
        status, _, content = post(url, {**body, "parameters": {"top_k": 2}})
        assert status == 200
        assert [entry["answer"] for entry in content] == [
            reply.answer for reply in expected.replies
        ]
        probabilities = [reply.probability for reply in expected.replies]
        assert np.allclose([entry["score"] for entry in content], probabilities, atol=2e-3)


def test_classification(models_url: str) -> None:
    url = f"{models_url}/hf/small/image-classification"
    status, _, content = send(url, photo("cat.jpg"))
    assert status == 200 and len(content) == 5 and content[0]["label"] == "cat"
    assert {entry["label"] for entry in content} <= set(EVERYDAY_WORDS)
    body = {"inputs": CAT, "parameters": {"top_k": 1, "function_to_apply": "softmax"}}
    assert [entry["label"] for entry in post(url, body).content] == ["cat"]
    status, _, content = send(f"{url}?labels=a%20kitten,a%20truck", photo("cat.jpg"))
    assert [entry["label"] for entry in content] == ["a kitten", "a truck"]
    body = {"inputs": CAT, "parameters": {"candidate_labels": ["a truck", "a kitten"]}}
    assert post(url, body).content == content


def zero_shot_body(**parameters: Any) -> dict[str, Any]:
    return {"inputs": CAT, "parameters": {"candidate_labels": ["a", "b"], **parameters}}


@pytest.mark.parametrize(
    ("task", "body", "status"),
    [
        ("zero-shot-image-classification", {"inputs": CAT}, 422),
        ("zero-shot-image-classification", zero_shot_body(candidate_labels=[]), 400),
        ("zero-shot-image-classification", zero_shot_body(candidate_labels=["a", "a"]), 400),
        ("zero-shot-image-classification", zero_shot_body(candidate_labels=[5]), 422),
        ("zero-shot-image-classification", zero_shot_body(hypothesis_template="no label"), 400),
        ("zero-shot-image-classification", {**zero_shot_body(), "inputs": "AAAA"}, 422),
        ("zero-shot-image-classification", {**zero_shot_body(), "inputs": "!"}, 400),
        ("zero-shot-image-classification", {**zero_shot_body(), "inputs": {}}, 422),
        ("feature-extraction", {"inputs": ""}, 400),
        ("feature-extraction", {"inputs": []}, 400),
        ("feature-extraction", {"inputs": [[1, 2]]}, 422),
        ("feature-extraction", {"inputs": "a", "prompt_name": "query"}, 422),
        ("feature-extraction", {"inputs": "a", "dimensions": 7}, 400),
        ("feature-extraction", {"inputs": "a", "encoding_format": "base64"}, 422),
        ("visual-question-answering", {"inputs": CAT}, 400),
        ("visual-question-answering", {"inputs": {"image": CAT}}, 422),
        ("visual-question-answering", {"inputs": CAT, "question": "hmm"}, 400),
        ("visual-question-answering", {"inputs": "AAAA", "question": "is it a cat?"}, 422),
        ("image-classification", {"inputs": CAT, "parameters": {"top_k": 0}}, 422),
        (
            "image-classification",
            {"inputs": CAT, "parameters": {"function_to_apply": "sigmoid"}},
            400,
        ),
        ("image-classification", {}, 422),
        ("image-classification", "text", 422),
    ],
)
def test_wrong_requests(models_url: str, task: str, body: Any, status: int) -> None:
    answer = post(f"{models_url}/hf/small/{task}", body)
    assert answer.status == status, answer
    assert list(answer.content) == ["error"] and isinstance(answer.content["error"], str)


def test_wrong_bodies_and_models(models_url: str) -> None:
    for task in ("feature-extraction", "image-classification"):
        url = f"{models_url}/hf/small/{task}"
        assert send(url, photo("cat.jpg")[:50]).status == 422
        assert send(url, b"").status == 422
        assert send(url, b"{").status == 400
        assert send(url, b"a cat", {"Content-Type": "application/json"}).status == 400
        answer = send(f"{models_url}/hf/google/other-model/{task}", photo("cat.jpg"))
        assert answer.status == 404 and "google/other-model" in answer.content["error"]


def test_status_503_is_never_sent() -> None:
    assert hugging_face_error(RequestError(503, "the server is shutting down")).status_code == 500
    assert hugging_face_error(RequestError(429, "busy")).status_code == 429


def test_a_bad_picture_fails_no_other_request(models_url: str) -> None:
    url = f"{models_url}/hf/small/feature-extraction"
    bodies = [photo("cat.jpg"), b"\xff\xd8\xff" + b"x" * 999, photo("dog.jpg"), b"GIF89a"] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: send(url, body), bodies))
    assert [answer.status for answer in answers] == [200, 422, 200, 422] * 4
    for index, answer in enumerate(answers[::2]):
        name = ("cat.jpg", "dog.jpg")[index % 2]
        assert_equal_embeds(answer.content[0], local_photo(name))
