"""Pictures that clients search with: their vectors and thumbnails, in memory."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twotower.serve.errors import RequestError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array

MAX_UPLOADS = 500  # about 20 kB each
THUMBNAIL_HEIGHT = 240  # pixels


@dataclass(frozen=True)
class Upload:
    """An uploaded picture: `image_embeds` [embed_dim] of a model, and a JPEG."""

    model: str
    image_embeds: Float32Array
    thumbnail: bytes


class Uploads:
    """The latest `MAX_UPLOADS` uploads by token."""

    def __init__(self) -> None:
        self._uploads: OrderedDict[str, Upload] = OrderedDict()

    def add(self, upload: Upload) -> str:
        """Keep an upload and return its token."""
        while len(self._uploads) >= MAX_UPLOADS:
            self._uploads.popitem(last=False)
        token = secrets.token_urlsafe(16)
        self._uploads[token] = upload
        return token

    def find(self, token: str) -> Upload:
        """Return an upload.

        Raises:
            RequestError: 404, it is unknown or was dropped for later ones.
        """
        if token not in self._uploads:
            raise RequestError(404, "no such upload; upload the picture again", field="upload")
        self._uploads.move_to_end(token)
        return self._uploads[token]
