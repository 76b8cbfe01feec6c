"""Print what PyPI's cohere gives, as JSON; arguments: server, data URI in a file."""

import json
import sys
from pathlib import Path

import cohere
from cohere.core.api_error import ApiError

url, uri = sys.argv[1], Path(sys.argv[2]).read_text()
client = cohere.ClientV2("key", base_url=url)
text = client.embed(
    model="small",
    texts=["a cat", "a dog"],
    input_type="search_document",
    embedding_types=["float", "int8", "uint8", "binary", "ubinary", "base64"],
)
image = client.embed(model="small", images=[uri], input_type="image", embedding_types=["float"])
content = [{"type": "image_url", "image_url": {"url": uri}}]
mixed = client.embed(
    model="small",
    inputs=[{"content": [{"type": "text", "text": "a cat"}]}, {"content": content}],
    input_type="search_document",
    embedding_types=["float"],
)


def error_of(**options: object) -> tuple[str, int, str]:
    try:
        client.embed(**{"model": "small", "input_type": "image", **options})  # type: ignore[arg-type]
    except ApiError as error:
        return type(error).__name__, error.status_code, error.body["message"]
    raise AssertionError(options)


print(
    json.dumps(
        {
            "texts": text.embeddings.float_,
            "bytes": [len(text.embeddings.int8[0]), len(text.embeddings.ubinary[0])],
            "base64": text.embeddings.base64,
            "image": image.embeddings.float_,
            "mixed": mixed.embeddings.float_,
            "errors": [
                error_of(model="other", texts=["a"]),
                error_of(images=["data:image/png;base64,AAAA"]),
                error_of(texts=[]),
            ],
        }
    )
)
