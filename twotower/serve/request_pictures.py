"""Pictures in requests: base64, data URIs and, where it is enabled, URLs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from twotower.serve.errors import RequestError

if TYPE_CHECKING:
    from twotower.serve.settings import ServerSettings

# Threads of their own, so that slow downloads keep no decoder waiting.
_DOWNLOADS = ThreadPoolExecutor(8, thread_name_prefix="twotower-download")


async def read_pictures(
    references: Sequence[str], settings: ServerSettings
) -> list[bytes | RequestError]:
    """Return the bytes of each picture, or its error, in order."""
    return list(await asyncio.gather(*(_outcome(text, settings) for text in references)))


async def read_picture(reference: str, settings: ServerSettings) -> bytes:
    """Return the bytes of a picture.

    Args:
        reference: base64, a `data:` URI or an `http(s)` URL.

    Raises:
        RequestError: 400 if it is none of these, or if URLs are not fetched here; 422 if the URL
            gives no picture.
    """
    if reference.startswith("data:"):
        return decode_data_uri(reference)
    if reference[:8].lower().startswith(("http://", "https://")):
        if not settings.fetch_urls:
            raise RequestError(400, "URLs are not fetched here; send the picture in base64")
        from twotower.serve.remote_pictures import download

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_DOWNLOADS, download, reference, settings)
    return decode_base64(reference)


def decode_data_uri(uri: str) -> bytes:
    """Return the content of a `data:` URI (RFC 2397). Raises `RequestError` 400."""
    head, comma, content = uri.partition(",")
    if not comma:
        raise RequestError(400, "the data URI has no comma before its content")
    if head.lower().endswith(";base64"):
        return decode_base64(content)
    return unquote_to_bytes(content)


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64, standard or for URLs, with or without padding.

    Raises:
        RequestError: 400, it is empty or no base64.
    """
    compact = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        content = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(400, "a picture is neither base64 nor a data URI") from None
    if not content:
        raise RequestError(400, "a picture is empty")
    return content


async def _outcome(reference: str, settings: ServerSettings) -> bytes | RequestError:
    try:
        return await read_picture(reference, settings)
    except RequestError as error:
        return error
