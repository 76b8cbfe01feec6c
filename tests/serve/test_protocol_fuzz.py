"""Bodies of any form: each answer has the status and the error shape of its protocol."""

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.serve.calls import base64_photo, post

QUICK = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Text that JSON can carry, lone surrogates among it.
words = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=()), max_size=8),
    st.sampled_from(["a cat", "text", "image_url", "data:image/png;base64,AA==", "small", "{}"]),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), words)
keys = st.sampled_from(["role", "content", "type", "text", "image_url", "url", "image", "question"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(keys, words), inner, max_size=3)
    ),
    max_leaves=8,
)


def bodies(*fields: str) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.dictionaries(st.sampled_from(fields), values, max_size=3))


def assert_openai_error(content: Any) -> None:
    assert set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["message"]


@QUICK
@example({"input": ["a"], "model": "\udfff"})
@example({"messages": [{"role": "user", "content": {"type": "text", "text": "a"}}]})
@given(bodies("model", "input", "messages", "modality", "encoding_format", "dimensions"))
def test_openai(models_url: str, body: Any) -> None:
    status, _, content = post(f"{models_url}/v1/embeddings", body)
    assert status in (200, 400, 404), content
    if status != 200:
        assert_openai_error(content)


@QUICK
@given(bodies("texts", "images", "inputs", "embedding_types", "truncate", "output_dimension"))
def test_cohere(models_url: str, body: Any) -> None:
    status, _, content = post(f"{models_url}/v2/embed", body)
    assert status in (200, 400, 404, 422), content
    if status != 200:
        assert list(content) == ["message"] and isinstance(content["message"], str)


@pytest.mark.parametrize(
    "task",
    [
        "zero-shot-image-classification",
        "feature-extraction",
        "visual-question-answering",
        "image-classification",
    ],
)
@settings(QUICK, max_examples=40)
@given(
    inputs=st.one_of(st.just(base64_photo("cat.jpg")), values),
    options=st.dictionaries(
        st.sampled_from(["question", "truncate", "normalize", "dimensions", "inputs"]), values
    ),
    parameters=st.one_of(
        st.none(),
        st.dictionaries(
            st.sampled_from(["candidate_labels", "hypothesis_template", "top_k"]), values
        ),
    ),
)
def test_hugging_face(
    models_url: str, task: str, inputs: Any, options: dict[str, Any], parameters: Any
) -> None:
    body = {"inputs": inputs, "parameters": parameters, **options}
    status, _, content = post(f"{models_url}/hf/small/{task}", body)
    assert status in (200, 400, 422), content
    if status != 200:
        assert list(content) == ["error"] and isinstance(content["error"], str)
