"""Print what PyPI's infinity-client gives, as JSON; arguments: server, picture."""

import base64
import json
import sys
from pathlib import Path

import PIL.Image
from infinity_client import Client
from infinity_client.api.default import embeddings, embeddings_image
from infinity_client.models import (
    ImageEmbeddingInput,
    OpenAIEmbeddingInputImage,
    OpenAIEmbeddingInputText,
)
from infinity_client.vision_client import InfinityVisionAPI

url, path = sys.argv[1:]
uri = "data:image/jpeg;base64," + base64.b64encode(Path(path).read_bytes()).decode()
client = Client(base_url=url, raise_on_unexpected_status=True)
texts = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=["a cat", "a dog"]))
image = embeddings.sync(client=client, body=OpenAIEmbeddingInputImage(input_=[uri]))
earlier = embeddings_image.sync(client=client, body=ImageEmbeddingInput(input_=uri))
vision = InfinityVisionAPI(url, model="small")
(row,), tokens = vision.embed("small", ["a cat"]).result()
(picture,), _ = vision.image_embed("small", [PIL.Image.open(path)]).result()
print(
    json.dumps(
        {
            "texts": [entry.embedding for entry in texts.data],
            "image": [entry.embedding for entry in image.data],
            "earlier": [entry.embedding for entry in earlier.data],
            "vision_text": row[0].tolist(),
            "vision_image": picture[0].tolist(),
            "tokens": [texts.usage.total_tokens, tokens],
        }
    )
)
