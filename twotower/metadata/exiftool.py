"""The XMP packet inside a picture file, read and replaced by exiftool.

exiftool knows where each format keeps its packet. It gets the whole packet, edited as a sidecar is
(see `xmp`), and writes the result to another file. The picture itself is changed by the journal, in
one step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from types import TracebackType
from typing import IO

from twotower.errors import MetadataError
from twotower.metadata.journal import Change
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import Tag, packet_keywords, set_tags
from twotower.metadata.xmp import RDF, Packet

_NEW_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>'
).encode()


# Formats that exiftool writes and Pillow reads back; raw files and videos are not changed.
_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .avif .heic .heif .hif".split())


def can_embed(picture: Path) -> bool:
    """Return whether XMP can be embedded into a file of this suffix."""
    return picture.suffix.lower() in _SUFFIXES


class ExifTool:
    """A single exiftool process for many pictures, started at the first use.

    Raises:
        MetadataError: exiftool is not installed.
    """

    def __init__(self) -> None:
        program = shutil.which("exiftool")
        if program is None:
            raise MetadataError(
                "embedding tags",
                "exiftool is not installed",
                "install it (Debian: libimage-exiftool-perl), or write sidecars",
            )
        self._command = [program, "-stay_open", "True", "-@", "-"]
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = 0

    def __enter__(self) -> ExifTool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate(b"-stay_open\nFalse\n")
            self._process = None

    def plan(
        self,
        picture: Path,
        tags: Mapping[Tag, float],
        model: str = "-",
        judged: Set[tuple[str, ...]] | None = None,
    ) -> Change | None:
        """Return the change that makes our tags in a picture file `tags`; None if it has them.

        Tags of ours whose keys are not in `judged` stay.

        Raises:
            MetadataError: exiftool cannot write to the file, or its packet cannot be edited.
            OSError: the file cannot be read.
        """
        before = picture.read_bytes()
        packet = self._read_packet(picture)
        if not packet and not tags:
            return None
        content = packet or _NEW_PACKET
        if b"HasExtendedXMP" in content:
            raise MetadataError(picture, "its XMP is in two parts", "write a sidecar instead")
        try:
            ours = packet_keywords(Packet(content)).ours
            after = set_tags(content, tags, model, read_keywords(picture).person, judged)
        except MetadataError as error:
            reason = f"its XMP: {error.reason}, left as it is"
            raise MetadataError(picture, reason, error.remedy) from None
        if after == content:
            return None
        changed = self._replace_packet(picture, None if after == _NEW_PACKET else after)
        return Change(picture, before, changed, ours)

    def _read_packet(self, picture: Path) -> bytes:
        """Read the packet in a file; empty if it has none."""
        packet, _ = self._execute(b"-b", b"-XMP", _argument(picture))
        return packet

    def _replace_packet(self, picture: Path, packet: bytes | None) -> bytes:
        """Return the file's bytes with another packet, or with none."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "packet.xmp"), Path(folder, "picture")
            option = b"-XMP="
            if packet is not None:
                source.write_bytes(packet)
                option = b"-XMP<=" + os.fsencode(source)
            _, message = self._execute(option, b"-o", os.fsencode(target), _argument(picture))
            if not target.exists():
                reason = message.split(" - ")[0].removeprefix("Error: ") or "no reason given"
                raise MetadataError(
                    picture, f"exiftool cannot write into it ({reason})", "write a sidecar instead"
                )
            return target.read_bytes()

    def _execute(self, *arguments: bytes) -> tuple[bytes, str]:
        """Run one command; return what exiftool prints to stdout and to stderr."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        self._commands += 1
        number = str(self._commands).encode()
        ready = b"{ready" + number + b"}"
        lines = [*arguments, b"-echo4", ready, b"-execute" + number]
        process.stdin.write(b"".join(line + b"\n" for line in lines))
        process.stdin.flush()
        output = _read_until(process.stdout, ready)
        return output, _read_until(process.stderr, ready).decode(errors="replace").strip()


def _read_until(stream: IO[bytes], ready: bytes) -> bytes:
    """Read a stream up to the line `ready`, which is left out."""
    content = b""
    while not content.rstrip(b"\r\n").endswith(ready):
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk:
            raise MetadataError(
                "exiftool", "the process has ended by itself", "try it by hand: exiftool -ver"
            )
        content += chunk
    return content.rstrip(b"\r\n")[: -len(ready)]


def _argument(picture: Path) -> bytes:
    """Return a path as an argument of exiftool.

    Raises:
        MetadataError: the name cannot be passed in a line.
    """
    name = os.fsencode(picture.absolute())
    if b"\n" in name or name != name.strip():
        raise MetadataError(
            repr(str(picture)), "exiftool cannot be given this name", "rename the file"
        )
    return name
