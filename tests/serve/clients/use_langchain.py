"""Print what PyPI's langchain-openai gives, as JSON; arguments: server."""

import asyncio
import json
import sys

from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    model="small",
    base_url=f"{sys.argv[1]}/v1",
    api_key="key",
    check_embedding_ctx_length=False,
)
print(
    json.dumps(
        {
            "query": embeddings.embed_query("a cat"),
            "documents": embeddings.embed_documents(["a cat", "a dog"], chunk_size=1),
            "asynchronous": asyncio.run(embeddings.aembed_documents(["a cat", "a dog"])),
        }
    )
)
