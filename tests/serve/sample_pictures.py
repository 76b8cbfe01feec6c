"""Pictures for requests, good and malicious."""

import io
import struct
import zlib
from pathlib import Path

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CAT = (PHOTOS / "cat.jpg").read_bytes()


def png_bomb(side: int = 60_000) -> bytes:
    """Return a PNG of a few megabytes at most that claims side x side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000 * (side // 8 + 1)), 9)
    content = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    content.seek(0, io.SEEK_END)
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        content.write(chunk(kind, data))
    return content.getvalue()


BAD_PICTURES = {
    "empty": b"",
    "no picture": b"not a picture",
    "truncated": CAT[:200],
    "bomb": png_bomb(),
}
