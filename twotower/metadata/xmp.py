"""XMP packets: lists of keywords read from them, and changed by editing the text in place.

A packet is never parsed and written anew: a parser says at which bytes the elements lie, and only
the bytes of the items that are added or taken out change. All else stays as whoever wrote it left
it: order, spaces, line ends, prefixes, padding, encoding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from twotower.errors import MetadataError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

NEW_PACKET = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
).encode()
"""A sidecar that says nothing yet."""

_CONTAINERS = frozenset((f"{RDF} Bag", f"{RDF} Seq", f"{RDF} Alt"))
_TAG = re.compile(rb"""<(?:[^>"']++|"[^"]*"|'[^']*')*>""")
_NAME = re.compile(rb"</?([^\s/>]+)")
_BLANK = " \t\r\n"
# The longest first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xef\xbb\xbf", "utf-8"),
)
_DECLARED = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True)
class Property:
    """A list of texts in a packet: where its name belongs, and the container of a new one."""

    prefix: str
    uri: str
    name: str
    container: str = "Bag"

    @property
    def key(self) -> str:
        """As the parser names it."""
        return f"{self.uri} {self.name}"


class Edit(NamedTuple):
    """What to do with a property: texts to take out (one item for each), and to add at the end."""

    remove: Sequence[str] = ()
    add: Sequence[str] = ()


_Change = tuple[int, int, str]  # from this byte, to that one, the text instead


@dataclass
class _Element:
    """Where an element lies: start tag from `start` to `inner`, end tag from `close` to `end`.

    Of an element without content (`<a/>`) the last three are the same.
    """

    name: str
    attributes: Mapping[str, str]
    start: int
    inner: int
    close: int = -1
    end: int = -1
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    @property
    def empty_tag(self) -> bool:
        return self.inner == self.end


class Packet:
    """An XMP packet or sidecar.

    Raises:
        XmpError: not XML, or no RDF in it.
    """

    def __init__(self, content: bytes) -> None:
        self._mark, self._codec, text = _decode(content)
        bare = text.strip(_BLANK + "\0")
        self._head, _, self._tail = text.partition(bare) if bare else (text, "", "")
        self._content = bare.encode()  # offsets are into this, whatever the file's encoding
        self._rdf = _parse(self._content)
        self._properties: dict[str, list[_Element]] = {}
        self._attributes: dict[str, str] = {}
        for node in self._rdf.children:
            self._attributes.update(node.attributes)
            for one in node.children:
                self._properties.setdefault(one.name, []).append(one)

    def items(self, wanted: Property) -> list[str]:
        """The texts of a list, stripped; those with more than text inside are left out."""
        texts = []
        if wanted.key in self._attributes:
            texts.append(self._attributes[wanted.key])
        for one in self._properties.get(wanted.key, ()):
            texts += [item.text for item in _items(one)] or ([] if one.children else [one.text])
        return [text for text in (text.strip(_BLANK) for text in texts) if text]

    def has(self, wanted: Property) -> bool:
        """Whether the property is there, be it empty."""
        return wanted.key in self._properties or wanted.key in self._attributes

    def edited(self, edits: Mapping[Property, Edit]) -> bytes:
        """The packet with some lists changed and every other byte as it was.

        Lists that are not there are begun together in a block of their own at the end.

        Raises:
            XmpError: a list is written in a way that is none (as an attribute, as a structure).
        """
        changes: list[_Change] = []
        new: list[tuple[Property, Sequence[str]]] = []
        for name, (remove, add) in edits.items():
            if name.key in self._attributes and (remove or add):
                raise MetadataError(
                    f"{name.prefix}:{name.name} is an attribute in it, not a list; save it once "
                    "with the program that wrote it"
                )
            there = self._properties.get(name.key, [])
            left = Counter(remove)
            for one in there:
                changes += self._removal(one, left, keep=bool(add) and one is there[0])
            if add and there:
                changes += self._addition(there[0], name, add)
            elif add:
                new.append((name, add))
        if new:
            changes.append(self._block(new))
        changes = self._without_empty_blocks(changes)
        content, end = self._content, len(self._content)
        parts: list[bytes] = []
        for start, stop, instead in sorted(changes, reverse=True):
            parts += [content[stop:end], instead.encode()]
            end = start
        parts.append(content[:end])
        text = self._head + b"".join(reversed(parts)).decode() + self._tail
        return self._mark + text.encode(self._codec, errors="xmlcharrefreplace")

    def _removal(self, one: _Element, left: Counter[str], keep: bool) -> Iterable[_Change]:
        """Changes that take the items `left` out; what is found is taken from that count.

        An element that loses all it has goes as a whole, unless `keep`.
        """
        items, gone = _items(one), []
        for item in items:
            if left[text := item.text.strip(_BLANK)] > 0:
                left[text] -= 1
                gone.append(item)
        if gone and len(gone) == len(items) and not keep and not _others(one):
            return [self._with_space_before(one)]
        return [self._with_space_before(item) for item in gone]

    def _without_empty_blocks(self, changes: list[_Change]) -> list[_Change]:
        """The changes, where descriptions that lose all they have go as a whole."""
        for node in self._rdf.children:
            inside = [one for one in changes if node.inner <= one[0] and one[1] <= node.close]
            gone = {one[1] for one in inside if not one[2]}
            if gone >= {one.end for one in node.children} != set() and _says_nothing(node):
                changes = [one for one in changes if one not in inside]
                changes.append(self._with_space_before(node))
        return changes

    def _with_space_before(self, one: _Element) -> _Change:
        start = one.start
        while self._content[start - 1 : start].isspace():
            start -= 1
        return start, one.end, ""

    def _addition(self, one: _Element, name: Property, add: Sequence[str]) -> Iterable[_Change]:
        if not one.children:  # no container yet: empty, or a single value as plain text
            if _says_how_to_parse(self._content[one.start : one.inner]):
                raise MetadataError(f"{name.prefix}:{name.name} is a structure in it, not a list")
            prefix = _prefix(self._raw_name(self._rdf))
            plain = [text] if (text := one.text.strip(_BLANK)) else []
            texts = "".join(_item(prefix, text) for text in [*plain, *add])
            bag = f"{prefix}{name.container}"
            return [self._filled(one, f"<{bag}>{texts}</{bag}>", whole=True)]
        container = one.children[0]
        if container.name not in _CONTAINERS:
            raise MetadataError(f"{name.prefix}:{name.name} is a structure in it, not a list")
        prefix = _prefix(self._raw_name(container))
        if not container.children:
            return [self._filled(container, "".join(_item(prefix, text) for text in add))]
        last = container.children[-1]
        start, _, _ = self._with_space_before(last)
        space = self._content[start : last.start].decode()
        texts = "".join(space + _item(prefix, text) for text in add)
        return [(last.end, last.end, texts)]

    def _filled(self, one: _Element, text: str, whole: bool = False) -> _Change:
        """An element without children gets some: before its end tag, or instead of all it has."""
        if one.empty_tag:
            name = self._raw_name(one)
            tag = self._content[one.start : one.inner].decode()
            opened = tag.removesuffix("/>").rstrip(_BLANK)
            return one.start, one.end, f"{opened}>{text}</{name}>"
        return one.inner if whole else one.close, one.close, text

    def _block(self, new: Sequence[tuple[Property, Sequence[str]]]) -> _Change:
        """A description of its own with the properties `new`, behind all that is there."""
        line = "\r\n" if b"\r\n" in self._content else "\n"
        names = {name.prefix: name.uri for name, _ in new}
        rdf_name = self._raw_name(self._rdf)
        if _prefix(rdf_name) != "rdf:":
            names["rdf"] = RDF
        about = quoteattr(self._attributes.get(f"{RDF} about", ""), {"\n": "&#10;"})
        lines = [f"  <rdf:Description rdf:about={about}"]
        lines += [f'    xmlns:{prefix}="{uri}"' for prefix, uri in names.items()]
        lines[-1] += ">"
        for name, add in new:
            full, bag = f"{name.prefix}:{name.name}", f"rdf:{name.container}"
            lines += [f"   <{full}>", f"    <{bag}>"]
            lines += [f"     {_item('rdf:', text)}" for text in add]
            lines += [f"    </{bag}>", f"   </{full}>"]
        lines.append("  </rdf:Description>")
        text = "".join(line + one for one in lines)
        if self._rdf.empty_tag:
            return self._filled(self._rdf, f"{text}{line} ")
        end = self._rdf.children[-1].end if self._rdf.children else self._rdf.inner
        return end, end, text

    def _raw_name(self, one: _Element) -> str:
        """An element's name with the prefix that the file uses."""
        match = _NAME.match(self._content, one.start)
        assert match is not None
        return match[1].decode()


def _items(one: _Element) -> list[_Element]:
    """The items of a list that are nothing but text."""
    return [
        item
        for container in one.children
        if container.name in _CONTAINERS
        for item in container.children
        if item.name == f"{RDF} li" and not item.children
    ]


def _others(one: _Element) -> bool:
    """Whether a property holds more than items that are text."""
    inside = [item for container in one.children for item in container.children]
    return len(inside) != len(_items(one))


def _says_nothing(node: _Element) -> bool:
    """Whether a description has no properties as attributes."""
    return not set(node.attributes) - {f"{RDF} about"}


def _says_how_to_parse(tag: bytes) -> bool:
    return b"parseType" in tag or b"resource" in tag


def _prefix(name: str) -> str:
    """ "rdf:Bag" -> "rdf:", "Bag" -> ""."""
    return name[: name.rfind(":") + 1]


def _item(prefix: str, text: str) -> str:
    return f"<{prefix}li>{escape(text)}</{prefix}li>"


def _decode(content: bytes) -> tuple[bytes, str, str]:
    """The byte order mark, the encoding, and the text; encoding it gives the same bytes.

    Raises:
        XmpError: an encoding that is not known, or bytes that do not belong to it.
    """
    mark, codec = next((one for one in _MARKS if content.startswith(one[0])), (b"", ""))
    rest = content[len(mark) :]
    if not codec:
        declared = _DECLARED.match(rest)
        codec = declared[1].decode() if declared else "utf-8"
        if rest.startswith(b"<\0"):
            codec = "utf-16-le"
        elif rest.startswith(b"\0<"):
            codec = "utf-16-be"
    try:
        text = rest.decode(codec)
        text.encode()  # some encodings have surrogates
        faithful = text.encode(codec) == rest
    except (LookupError, UnicodeError):
        faithful = False
    if not faithful:
        raise MetadataError(f"not text in {codec}")
    return mark, codec, text


def _parse(content: bytes) -> _Element:
    """The RDF element with all below it.

    Raises:
        XmpError: not XML, or XML without RDF.
    """
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.buffer_text = True
    opened: list[_Element] = []
    found: list[_Element] = []

    def start(name: str, given: dict[str, str]) -> None:
        begin = parser.CurrentByteIndex
        tag = _TAG.match(content, begin)
        assert tag is not None
        element = _Element(name, given, begin, tag.end())
        if opened:
            opened[-1].children.append(element)
        opened.append(element)
        if name == f"{RDF} RDF":
            found.append(element)

    def end(_: str) -> None:
        element = opened.pop()
        if content[element.inner - 2 : element.inner] == b"/>":
            element.close = element.end = element.inner
        else:
            element.close = parser.CurrentByteIndex
            element.end = content.index(b">", element.close) + 1

    def text(some: str) -> None:
        if opened:
            opened[-1].text += some

    def refuse(*_: object) -> None:  # no XMP has one, and entities can explode
        raise MetadataError("a DOCTYPE is in it, which XMP does not allow")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise MetadataError(f"not XML (line {error.lineno}: {reason})") from None
    if not found:
        raise MetadataError("XML, but no XMP is in it")
    return found[0]
