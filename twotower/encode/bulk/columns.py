"""The column of a Parquet table with pictures, paths, URLs or texts, and files opened anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from twotower.encode.bulk.settings import EmbedSettings
from twotower.errors import EmbedError
from twotower.pairs.remote import is_remote, open_remote
from twotower.pairs.tables import CAPTION_COLUMNS, PICTURE_COLUMNS

# Of pictures as bytes: names of data sets of the Hugging Face hub, webdataset and img2dataset.
BYTES_COLUMNS = (
    "image", "picture", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "content",
)  # fmt: skip
URL_COLUMNS = ("url", "image_url", "URL", "uri")
KEY_COLUMNS = ("key", "__key__", "id")


def open_binary(location: str) -> Any:
    """Open a file at a path or URL. Raises `OSError` or `PairsError`."""
    return open_remote(location) if is_remote(location) else Path(location).open("rb")


def open_table(location: str) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file at a path or URL. Raises `OSError`, `ArrowException`, `PairsError`."""
    return pyarrow.parquet.ParquetFile(open_remote(location) if is_remote(location) else location)


def source_column(schema: pyarrow.Schema, location: str, settings: EmbedSettings) -> str:
    """Return the column that is embedded: that of the settings, or one with a usual name.

    A column of bytes is preferred to one of paths, and that to one of URLs.

    Raises:
        EmbedError: there is none.
    """
    text_names = [field.name for field in schema if _is_text(field.type)]
    byte_names = [field.name for field in schema if _is_bytes(field.type)]
    usual: tuple[str, ...]
    if settings.texts:
        usable, usual = text_names, CAPTION_COLUMNS
    else:
        usable = text_names + byte_names
        usual = (
            *(name for name in (*BYTES_COLUMNS, *PICTURE_COLUMNS) if name in byte_names),
            *PICTURE_COLUMNS,
            *URL_COLUMNS,
        )
    names = usual if settings.column is None else (settings.column,)
    for name in names:
        if name in usable:
            return name
    kind, option = ("texts", "--text-column") if settings.texts else ("pictures", "--column")
    raise EmbedError(
        location,
        f"no column of {kind}" + (f" {settings.column!r}" if settings.column else ""),
        f"name it with {option} (there are: {', '.join(schema.names) or 'none'})",
    )


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_bytes(kind: pyarrow.DataType) -> bool:
    """Return True for bytes, and for the struct of bytes and path of the library `datasets`."""
    types = pyarrow.types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
