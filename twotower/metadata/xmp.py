"""XMP packets: lists of keywords, read, and changed by editing the text in place.

A packet is never parsed and written anew. The parser gives the byte offsets of the elements, and
only the bytes of added and removed items change. Everything else stays as its program wrote it:
order, white space, line ends, prefixes, padding and encoding. A serializer would change all of
these, lose what it does not model, and make every edit of a person's file impossible to review or
to undo byte for byte.
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
"""An empty sidecar."""

_CONTAINERS = frozenset((f"{RDF} Bag", f"{RDF} Seq", f"{RDF} Alt"))
_TAG = re.compile(rb"""<(?:[^>"']++|"[^"]*"|'[^']*')*>""")
_NAME = re.compile(rb"</?([^\s/>]+)")
_BLANK = " \t\r\n"
# The longest first: that of UTF-16 is the beginning of that of UTF-32.
_BYTE_ORDER_MARKS = (
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xef\xbb\xbf", "utf-8"),
)
_DECLARED_ENCODING = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True)
class Property:
    """A list of texts in a packet: its namespace, its name, and the container of a new list."""

    prefix: str
    uri: str
    name: str
    container: str = "Bag"

    @property
    def key(self) -> str:
        """The name that the parser gives to its elements."""
        return f"{self.uri} {self.name}"


class Edit(NamedTuple):
    """Texts to remove from a list (one item for each), and texts to append."""

    remove: Sequence[str] = ()
    add: Sequence[str] = ()


class _Replacement(NamedTuple):
    """New text for the bytes from `start` to `stop`."""

    start: int
    stop: int
    text: str


@dataclass
class _Element:
    """An element and its offsets: start tag from `start` to `inner`, end tag from `close` to `end`.

    An element without content (`<a/>`) has the same `inner`, `close` and `end`.
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
        MetadataError: the content is not XML, or has no RDF element.
    """

    def __init__(self, content: bytes) -> None:
        self._byte_order_mark, self._codec, text = _decode(content)
        bare = text.strip(_BLANK + "\0")
        self._head, _, self._tail = text.partition(bare) if bare else (text, "", "")
        self._content = bare.encode()  # UTF-8, to which offsets refer, whatever the file's encoding
        self._rdf = _parse(self._content)
        self._properties: dict[str, list[_Element]] = {}
        self._attributes: dict[str, str] = {}
        for node in self._rdf.children:
            self._attributes.update(node.attributes)
            for element in node.children:
                self._properties.setdefault(element.name, []).append(element)

    def items(self, name: Property) -> list[str]:
        """Return the texts of a list, stripped; items with elements inside are left out."""
        texts = []
        if name.key in self._attributes:
            texts.append(self._attributes[name.key])
        for element in self._properties.get(name.key, ()):
            plain = [] if element.children else [element.text]
            texts += [item.text for item in _items(element)] or plain
        return [text for text in (text.strip(_BLANK) for text in texts) if text]

    def has(self, name: Property) -> bool:
        """Return whether the property exists, even if empty."""
        return name.key in self._properties or name.key in self._attributes

    def edited(self, edits: Mapping[Property, Edit]) -> bytes:
        """Return the packet with some lists changed and every other byte unchanged.

        Missing lists are added together, in a block of their own at the end.

        Raises:
            MetadataError: a property is not written as a list, but as an attribute or a structure.
        """
        replacements: list[_Replacement] = []
        missing: list[tuple[Property, Sequence[str]]] = []
        for name, edit in edits.items():
            if not any(edit):
                continue
            if name.key in self._attributes:
                raise MetadataError(
                    "XMP packet",
                    f"{name.prefix}:{name.name} is an attribute, not a list",
                    "save it once with the program that wrote it",
                )
            elements = self._properties.get(name.key, [])
            replacements += self._edit(elements, name, edit)
            if edit.add and not elements:
                missing.append((name, edit.add))
        if missing:
            replacements.append(self._new_block(missing))
        text = self._head + self._apply(self._without_empty_blocks(replacements)) + self._tail
        return self._byte_order_mark + text.encode(self._codec, errors="xmlcharrefreplace")

    def _edit(
        self, elements: Sequence[_Element], name: Property, edit: Edit
    ) -> Iterable[_Replacement]:
        """Remove items from all elements of a property, and append to the first one."""
        remaining = Counter(edit.remove)
        for element in elements:
            keep = bool(edit.add) and element is elements[0]
            yield from self._removals(element, remaining, keep=keep)
        if edit.add and elements:
            yield self._addition(elements[0], name, edit.add)

    def _apply(self, replacements: Iterable[_Replacement]) -> str:
        content, end = self._content, len(self._content)
        chunks: list[bytes] = []
        for start, stop, text in sorted(replacements, reverse=True):
            chunks += [content[stop:end], text.encode()]
            end = start
        chunks.append(content[:end])
        return b"".join(reversed(chunks)).decode()

    def _removals(
        self, element: _Element, remaining: Counter[str], keep: bool
    ) -> Iterable[_Replacement]:
        """Remove the items counted in `remaining`, which is reduced by those that are removed.

        An element that loses its whole content is removed itself, unless `keep`.
        """
        items, removed = _items(element), []
        for item in items:
            if remaining[text := item.text.strip(_BLANK)] > 0:
                remaining[text] -= 1
                removed.append(item)
        if removed and len(removed) == len(items) and not keep and not _has_structures(element):
            return [self._removal(element)]
        return [self._removal(item) for item in removed]

    def _removal(self, element: _Element) -> _Replacement:
        """Remove an element and the white space before it."""
        start = element.start
        while self._content[start - 1 : start].isspace():
            start -= 1
        return _Replacement(start, element.end, "")

    def _without_empty_blocks(self, replacements: list[_Replacement]) -> list[_Replacement]:
        """Remove descriptions that would lose their whole content, in place of that content."""
        for node in self._rdf.children:
            inside = [
                edit for edit in replacements if node.inner <= edit[0] and edit[1] <= node.close
            ]
            removed = {edit.stop for edit in inside if not edit.text}
            if removed >= {child.end for child in node.children} != set() and _is_bare(node):
                replacements = [edit for edit in replacements if edit not in inside]
                replacements.append(self._removal(node))
        return replacements

    def _addition(self, element: _Element, name: Property, texts: Sequence[str]) -> _Replacement:
        """Append items to a list, indented as its last item is."""
        if not element.children:
            return self._new_container(element, name, texts)
        container = element.children[0]
        if container.name not in _CONTAINERS:
            raise _not_a_list(name)
        prefix = _prefix(self._raw_name(container))
        if not container.children:
            return self._filled(container, "".join(_item(prefix, text) for text in texts))
        last_item = container.children[-1]
        start = self._removal(last_item).start
        space = self._content[start : last_item.start].decode()
        items = "".join(space + _item(prefix, text) for text in texts)
        return _Replacement(last_item.end, last_item.end, items)

    def _new_container(
        self, element: _Element, name: Property, texts: Sequence[str]
    ) -> _Replacement:
        """Add a container to a property that is empty or holds a single value as plain text."""
        if _is_typed(self._content[element.start : element.inner]):
            raise _not_a_list(name)
        prefix = _prefix(self._raw_name(self._rdf))
        plain = [text] if (text := element.text.strip(_BLANK)) else []
        items = "".join(_item(prefix, text) for text in [*plain, *texts])
        bag = f"{prefix}{name.container}"
        return self._filled(element, f"<{bag}>{items}</{bag}>", replace_text=True)

    def _filled(self, element: _Element, text: str, replace_text: bool = False) -> _Replacement:
        """Fill an element that has no children: before its end tag, or in place of its text."""
        if element.empty_tag:
            name = self._raw_name(element)
            tag = self._content[element.start : element.inner].decode()
            start_tag = tag.removesuffix("/>").rstrip(_BLANK) + ">"
            return _Replacement(element.start, element.end, f"{start_tag}{text}</{name}>")
        return _Replacement(element.inner if replace_text else element.close, element.close, text)

    def _new_block(self, lists: Sequence[tuple[Property, Sequence[str]]]) -> _Replacement:
        """Add a description with the given lists behind all others."""
        newline = "\r\n" if b"\r\n" in self._content else "\n"
        namespaces = {name.prefix: name.uri for name, _ in lists}
        if _prefix(self._raw_name(self._rdf)) != "rdf:":
            namespaces["rdf"] = RDF
        about = quoteattr(self._attributes.get(f"{RDF} about", ""), {"\n": "&#10;"})
        lines = [f"  <rdf:Description rdf:about={about}"]
        lines += [f'    xmlns:{prefix}="{uri}"' for prefix, uri in namespaces.items()]
        lines[-1] += ">"
        for name, texts in lists:
            tag, bag = f"{name.prefix}:{name.name}", f"rdf:{name.container}"
            lines += [f"   <{tag}>", f"    <{bag}>"]
            lines += [f"     {_item('rdf:', text)}" for text in texts]
            lines += [f"    </{bag}>", f"   </{tag}>"]
        lines.append("  </rdf:Description>")
        block = "".join(newline + line for line in lines)
        if self._rdf.empty_tag:
            return self._filled(self._rdf, f"{block}{newline} ")
        end = self._rdf.children[-1].end if self._rdf.children else self._rdf.inner
        return _Replacement(end, end, block)

    def _raw_name(self, element: _Element) -> str:
        """Return an element's name with the prefix that the file uses."""
        match = _NAME.match(self._content, element.start)
        assert match is not None
        return match[1].decode()


def _items(element: _Element) -> list[_Element]:
    """Return the items of a list that contain only text."""
    return [
        item
        for container in element.children
        if container.name in _CONTAINERS
        for item in container.children
        if item.name == f"{RDF} li" and not item.children
    ]


def _has_structures(element: _Element) -> bool:
    """Return whether a property has content besides text items."""
    content = [item for container in element.children for item in container.children]
    return len(content) != len(_items(element))


def _is_bare(node: _Element) -> bool:
    """Return whether a description has no properties as attributes."""
    return not set(node.attributes) - {f"{RDF} about"}


def _is_typed(start_tag: bytes) -> bool:
    """Return whether a start tag declares that its content is no plain text."""
    return b"parseType" in start_tag or b"resource" in start_tag


def _not_a_list(name: Property) -> MetadataError:
    return MetadataError(
        "XMP packet",
        f"{name.prefix}:{name.name} is a structure, not a list",
        "save it once with the program that wrote it",
    )


def _prefix(name: str) -> str:
    """Return "rdf:" for "rdf:Bag", and "" for "Bag"."""
    return name[: name.rfind(":") + 1]


def _item(prefix: str, text: str) -> str:
    return f"<{prefix}li>{escape(text)}</{prefix}li>"


def _decode(content: bytes) -> tuple[bytes, str, str]:
    """Return the byte order mark, the encoding, and the text, which encodes to the same bytes.

    Raises:
        MetadataError: the encoding is unknown, or the bytes are not valid in it.
    """
    byte_order_mark, codec = next(
        (pair for pair in _BYTE_ORDER_MARKS if content.startswith(pair[0])), (b"", "")
    )
    body = content[len(byte_order_mark) :]
    codec = codec or _guess_codec(body)
    try:
        text = body.decode(codec)
        text.encode()  # some encodings have surrogates
        faithful = text.encode(codec) == body
    except (LookupError, UnicodeError):
        faithful = False
    if not faithful:
        raise MetadataError("XMP packet", f"not text in {codec}", "repair or delete it")
    return byte_order_mark, codec, text


def _guess_codec(content: bytes) -> str:
    """Return the encoding of XML without a byte order mark."""
    if content.startswith(b"<\0"):
        return "utf-16-le"
    if content.startswith(b"\0<"):
        return "utf-16-be"
    declared = _DECLARED_ENCODING.match(content)
    return declared[1].decode() if declared else "utf-8"


def _parse(content: bytes) -> _Element:
    """Return the RDF element with its descendants.

    Raises:
        MetadataError: the content is not XML, or XML without RDF.
    """
    parser = expat.ParserCreate("utf-8", namespace_separator=" ")
    parser.buffer_text = True
    ancestors: list[_Element] = []
    roots: list[_Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        offset = parser.CurrentByteIndex
        tag = _TAG.match(content, offset)
        assert tag is not None
        element = _Element(name, attributes, offset, tag.end())
        if ancestors:
            ancestors[-1].children.append(element)
        ancestors.append(element)
        if name == f"{RDF} RDF":
            roots.append(element)

    def end(_: str) -> None:
        element = ancestors.pop()
        if content[element.inner - 2 : element.inner] == b"/>":
            element.close = element.end = element.inner
        else:
            element.close = parser.CurrentByteIndex
            element.end = content.index(b">", element.close) + 1

    def add_text(text: str) -> None:
        if ancestors:
            ancestors[-1].text += text

    def refuse(*_: object) -> None:  # entities can expand without bound, and XMP has no DOCTYPE
        raise MetadataError("XMP packet", "it has a DOCTYPE, which XMP forbids", "remove it")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = add_text, refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        reason = f"not XML (line {error.lineno}: {expat.ErrorString(error.code)})"
        raise MetadataError("XMP packet", reason, "repair or delete it") from None
    if not roots:
        raise MetadataError("XMP packet", "XML, but no XMP is in it", "repair or delete it")
    return roots[0]
