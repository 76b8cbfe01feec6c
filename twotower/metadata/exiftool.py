"""The XMP packet inside a picture file, read and exchanged by exiftool.

exiftool knows where each kind of file keeps its packet. It is given the whole packet, edited as a
sidecar is, and writes to another file: the picture is changed by us, in one step and journalled.
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
from twotower.metadata.ownership import Tag, read_keywords_of, set_tags
from twotower.metadata.xmp import RDF, Packet

_NEW_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>'
).encode()


# What exiftool writes and Pillow reads back. Raw files and videos are left alone.
_KINDS = frozenset(".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .avif .heic .heif .hif".split())


def can_embed(picture: Path) -> bool:
    """Whether a file's kind is one to embed into."""
    return picture.suffix.lower() in _KINDS


class ExifTool:
    """exiftool as one process for many pictures; it is started when it is first needed.

    Raises:
        SidecarError: it is not installed.
    """

    def __init__(self) -> None:
        program = shutil.which("exiftool")
        if program is None:
            raise MetadataError(
                "exiftool is not installed, and without it nothing can be embedded; install it "
                "(Debian: libimage-exiftool-perl), or write sidecars"
            )
        self._command = [program, "-stay_open", "True", "-@", "-"]
        self._process: subprocess.Popen[bytes] | None = None
        self._run = 0

    def __enter__(self) -> ExifTool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
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
        """What is to change in a picture file so that our tags in it are `tags`.

        Tags of ours whose keys are not `judged` stay.

        Raises:
            SidecarError: exiftool cannot write into it, or its packet cannot be edited.
            OSError: it cannot be read.
        """
        before = picture.read_bytes()
        packet = self._packet(picture)
        if not packet and not tags:
            return None
        content = packet or _NEW_PACKET
        if b"HasExtendedXMP" in content:
            raise MetadataError(f"{picture}: its XMP is in two parts; write a sidecar instead")
        try:
            ours = read_keywords_of(Packet(content)).ours
            after = set_tags(content, tags, model, read_keywords(picture).person, judged)
        except MetadataError as error:
            raise MetadataError(f"{picture}: its XMP: {error}; left as it is") from None
        if after == content:
            return None
        exchanged = self._exchanged(picture, None if after == _NEW_PACKET else after)
        return Change(picture, before, exchanged, ours)

    def _packet(self, picture: Path) -> bytes:
        """The packet in a file; empty without one."""
        packet, _ = self._ask(b"-b", b"-XMP", _name(picture))
        return packet

    def _exchanged(self, picture: Path, packet: bytes | None) -> bytes:
        """The file's bytes with another packet, or with none."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "packet.xmp"), Path(folder, "picture")
            option = b"-XMP="
            if packet is not None:
                source.write_bytes(packet)
                option = b"-XMP<=" + os.fsencode(source)
            _, complaint = self._ask(option, b"-o", os.fsencode(target), _name(picture))
            if not target.exists():
                reason = complaint.split(" - ")[0].removeprefix("Error: ") or "no reason given"
                raise MetadataError(f"{picture}: exiftool cannot write into it ({reason})")
            return target.read_bytes()

    def _ask(self, *arguments: bytes) -> tuple[bytes, str]:
        """What exiftool prints for arguments, and what it complains of."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        self._run += 1
        number = str(self._run).encode()
        ready = b"{ready" + number + b"}"
        lines = [*arguments, b"-echo4", ready, b"-execute" + number]
        process.stdin.write(b"".join(line + b"\n" for line in lines))
        process.stdin.flush()
        answer = _until(process.stdout, ready)
        return answer, _until(process.stderr, ready).decode(errors="replace").strip()


def _until(stream: IO[bytes], ready: bytes) -> bytes:
    """What comes from a stream before the line that says that all has come."""
    content = b""
    while not content.rstrip(b"\r\n").endswith(ready):
        some = os.read(stream.fileno(), 1 << 16)
        if not some:
            raise MetadataError("exiftool has ended by itself; try it by hand: exiftool -ver")
        content += some
    return content.rstrip(b"\r\n")[: -len(ready)]


def _name(picture: Path) -> bytes:
    """A path as an argument. Raises `SidecarError` for one that exiftool cannot be told."""
    name = os.fsencode(picture.absolute())
    if b"\n" in name or name != name.strip():
        raise MetadataError(
            f"{str(picture)!r}: exiftool cannot be given this name; rename the file"
        )
    return name
