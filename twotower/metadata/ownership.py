"""Our keywords in an XMP packet, told apart from a person's: ours are changed, theirs only read.

Three lists carry keywords, since no program reads them all: `dc:subject` (names alone),
`lr:hierarchicalSubject` and `digiKam:TagsList` (paths). A fourth list, `twotower:Tags`, is our
mark. It has an item for each tag of ours: the probability, the model, the lists to which we added
the tag, and the tag:

    0.93 5f0c2a917be4 dc+lr+digiKam animal|dog|poodle

A keyword that the mark does not claim is a person's, except those that darktable gives by itself.
A tag that the mark claims, and that is missing in one of its lists while others of ours are there,
was removed by a person. Its claim then has `-` in place of the lists, and the tag is not written
again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from twotower.metadata.xmp import Edit, Packet, Property

Tag: TypeAlias = tuple[str, ...]
"""A path of names, from the general to the special, such as ("animal", "dog", "poodle")."""

TagKey: TypeAlias = tuple[str, ...]
"""The same for tags that people would call the same: composed (NFC) and case-folded."""

SUBJECT = Property("dc", "http://purl.org/dc/elements/1.1/", "subject")
HIERARCHY = Property("lr", "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject")
TAGS_LIST = Property("digiKam", "http://www.digikam.org/ns/1.0/", "TagsList", "Seq")
MARK = Property("twotower", "http://ns.twotower/1.0/", "Tags")

# Lists of paths with their separators, the most detailed first; the last two are only read. None of
# them can escape its separator, so a lookalike replaces it inside a name.
_SEPARATORS = {
    TAGS_LIST: "/",
    HIERARCHY: "|",
    Property("MicrosoftPhoto", "http://ns.microsoft.com/photo/1.0/", "LastKeywordXMP"): "/",
    Property("mediapro", "http://ns.iview-multimedia.com/mediapro/1.0/", "CatalogSets"): "|",
}
_LOOKALIKES = {"/": "\N{DIVISION SLASH}", "|": "\N{BROKEN BAR}"}
_SEPARATOR_OF_LOOKALIKE = {ord(lookalike): sign for sign, lookalike in _LOOKALIKES.items()}
_LISTS = (SUBJECT, HIERARCHY, TAGS_LIST)
_CLAIM = re.compile(r"([01]\.\d\d) (\S+) (-|\S+) (.+)", re.DOTALL)
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FINGERPRINT_LENGTH = 12


@dataclass(frozen=True)
class Keywords:
    """The keywords of a picture, or of one packet.

    Attributes:
        person: from a person or another program; a flat keyword is a path of one name.
        ours: written by us and still there, with the probability at that time.
        rejected: written by us, and removed by a person since.
    """

    person: tuple[Tag, ...] = ()
    ours: Mapping[Tag, float] = field(default_factory=dict)
    rejected: tuple[Tag, ...] = ()


class _Claim(NamedTuple):
    """An item of the mark: a tag, the lists to which we added it, and its state.

    It `stands` if all of them still have it. It is `rejected` if a person removed it, now or
    earlier (then it has no lists). It is neither if a list has lost every tag of ours.
    """

    tag: Tag
    probability: float
    model: str
    lists: frozenset[str]
    stands: bool = True
    rejected: bool = False

    @property
    def key(self) -> TagKey:
        return _tag_key(self.tag)

    def __str__(self) -> str:
        lists = "+".join(name.prefix for name in _LISTS if name.prefix in self.lists)
        if self.rejected:
            lists = ""
        return f"{self.probability:.2f} {self.model} {lists or '-'} {_escape(self.tag)}"


def clean_tag(tag: Iterable[str]) -> Tag:
    """Return the names as one line each, composed (NFC) and valid in XML; drop empty ones."""
    return tuple(name for name in map(_clean, tag) if name)


def tag_keys(tags: Iterable[Tag]) -> frozenset[TagKey]:
    """Return the keys by which tags are compared."""
    return frozenset(_tag_key(clean_tag(tag)) for tag in tags)


def packet_keywords(packet: Packet) -> Keywords:
    """Return the keywords of one packet."""
    return _keywords(packet, _read_claims(packet))


def _keywords(packet: Packet, claims: Sequence[_Claim]) -> Keywords:
    paths: dict[TagKey, Tag] = {}
    for name, separator in _SEPARATORS.items():
        claimed = {_key(_list_text(name, claim.tag)) for claim in claims if _covers(claim, name)}
        for text in packet.items(name):
            if _key(text) not in claimed and (tag := _split(text, separator)):
                paths.setdefault(_tag_key(tag), tag)
    # Programs repeat the names of a path in the flat list: there they are no keywords of their own.
    repeated = {name for path in paths for name in path}
    for claim in claims:
        repeated |= set(claim.key if SUBJECT.prefix in claim.lists else claim.key[:-1])
    for text in packet.items(SUBJECT):
        if (tag := clean_tag([text])) and _tag_key(tag)[0] not in repeated:
            paths.setdefault(_tag_key(tag), tag)
    return Keywords(
        person=tuple(tag for tag in paths.values() if not _is_of_program(tag)),
        ours={claim.tag: claim.probability for claim in claims if claim.stands},
        rejected=tuple(claim.tag for claim in claims if claim.rejected and claim.key not in paths),
    )


def _is_of_program(tag: Tag) -> bool:
    """Return True for the tags below "darktable", with which it marks styles, formats and edits."""
    return len(tag) > 1 and _key(tag[0]) == "darktable"


def merge_keywords(sources: Iterable[Keywords]) -> Keywords:
    """Merge the sources of one picture; copies that programs made of our tags count as ours."""
    sources = list(sources)
    ours: dict[Tag, float] = {}
    for source in sources:
        ours.update({tag: p for tag, p in source.ours.items() if tag not in ours})
    person: dict[TagKey, Tag] = {}
    for source in sources:
        copied = {_tag_key(tag) for tag in ours if tag not in source.ours}
        repeated = {name for key in copied for name in key}
        repeated.update(name for key in person if len(key) > 1 for name in key)
        for tag in source.person:
            key = _tag_key(tag)
            if key not in copied and not (len(key) == 1 and key[0] in repeated):
                person.setdefault(key, tag)
    rejected = dict.fromkeys(tag for source in sources for tag in source.rejected)
    return Keywords(
        person=tuple(person.values()),
        ours={tag: p for tag, p in ours.items() if tag not in rejected},
        rejected=tuple(tag for tag in rejected if _tag_key(tag) not in person),
    )


def _covers(claim: _Claim, name: Property) -> bool:
    """Return whether a list's entry for the tag is ours, or a program's copy of ours."""
    return name.prefix in claim.lists or (name not in _LISTS and bool(claim.lists))


def set_tags(
    content: bytes,
    tags: Mapping[Tag, float],
    model: str = "-",
    person: Iterable[Tag] = (),
    judged: Set[TagKey] | None = None,
) -> bytes:
    """Make our tags in a packet exactly `tags`, and leave everything else unchanged.

    Tags that a person also gave, or removed, are not written. A list that the packet does not have
    yet begins with the person's keywords: programs that read this list read no other, and would
    hide them.

    Args:
        content: the packet's bytes.
        tags: each with its probability.
        model: the fingerprint of the model that assigned them.
        person: a person's keywords from elsewhere, such as from the picture file.
        judged: keys (see `tag_keys`) of the tags that were decided on; other tags of ours stay. By
            default all were.

    Returns:
        The new bytes; `content` itself if nothing changes.

    Raises:
        MetadataError: the packet cannot be read or edited.
    """
    packet = Packet(content)
    claims = _read_claims(packet)
    keywords = _keywords(packet, claims)
    claimed = {claim.key for claim in claims if not claim.rejected}
    external = [tag for tag in person if tag and _tag_key(tag) not in claimed]
    theirs = {_tag_key(tag): tag for tag in [*keywords.person, *external]}
    refused = theirs.keys() | {_tag_key(tag) for tag in keywords.rejected}
    targets = [
        claim
        for claim in _target_claims(tags, model, claims, judged)
        if claim.key and claim.key not in refused
    ]
    # a name in a path that a person gave is theirs too, in the flat list
    kept = {SUBJECT: {key for tag in keywords.person for key in _tag_key(tag)}}
    edits, lists = {}, {claim.tag: set[str]() for claim in targets}
    for name in _LISTS:
        ours = {_key(_list_text(name, claim.tag)) for claim in claims if name.prefix in claim.lists}
        copies = () if packet.has(name) else theirs.values()
        edits[name], listed = _list_edit(
            packet, name, list(lists), ours, kept.get(name, set()), copies
        )
        for tag in listed:
            lists[tag].add(name.prefix)
    new_claims = [claim for claim in claims if claim.rejected]
    new_claims += [
        claim._replace(lists=frozenset(lists[claim.tag]), rejected=False)
        for claim in targets
        if lists[claim.tag]
    ]
    edits[MARK] = _difference(packet.items(MARK), list(map(str, new_claims)))
    if not any(remove or add for remove, add in edits.values()):
        return content
    return packet.edited(edits)


def _target_claims(
    tags: Mapping[Tag, float],
    model: str,
    claims: Iterable[_Claim],
    judged: Set[TagKey] | None,
) -> list[_Claim]:
    """Return claims for `tags` (without lists yet) and for tags of ours that were not judged."""
    fingerprint = re.sub(r"\s", "", model)[:_FINGERPRINT_LENGTH] or "-"
    targets: dict[TagKey, _Claim] = {}
    for tag, probability in tags.items():
        bounded = min(1.0, max(0.0, probability))
        claim = _Claim(clean_tag(tag), bounded, fingerprint, frozenset())
        targets.setdefault(claim.key, claim)
    for claim in claims:
        if judged is not None and claim.key not in judged:
            targets.setdefault(claim.key, claim)
    return list(targets.values())


def _list_edit(
    packet: Packet,
    name: Property,
    tags: Iterable[Tag],
    ours: Set[str],
    kept: Set[str],
    copies: Iterable[Tag],
) -> tuple[Edit, list[Tag]]:
    """Return the edit that makes our items of a list `tags`, and which of them are then ours.

    Args:
        ours: keys of our items in the list now.
        kept: keys of items that are not removed.
        copies: a person's keywords, with which a new list begins.
    """
    present = {_key(text): text for text in packet.items(name)}
    copied = {_key(text): text for text in (_list_text(name, tag) for tag in copies)}
    texts: dict[str, str] = {}
    listed: list[Tag] = []
    for tag in tags:
        key = _key(text := _list_text(name, tag))
        if key not in copied and (key in ours or key not in present):
            texts[key] = text
            listed.append(tag)
    remove = [present[key] for key in ours - kept - texts.keys() if key in present]
    add = [text for key, text in texts.items() if key not in present]
    return Edit(remove, [*copied.values(), *add] if add else ()), listed


def _difference(before: Sequence[str], after: Sequence[str]) -> Edit:
    old, new = set(before), set(after)
    return Edit(
        [text for text in before if text not in new],
        [text for text in after if text not in old],
    )


def _read_claims(packet: Packet) -> list[_Claim]:
    """Return the items of the mark, compared with the lists.

    A person removes single tags. A list without any of ours was written by a program that had not
    read them, and is no evidence of what a person wants.
    """
    present = {name.prefix: {_key(text) for text in packet.items(name)} for name in _LISTS}
    claims = []
    for text in packet.items(MARK):
        if match := _CLAIM.fullmatch(text):
            lists = frozenset(match[3].split("+")) & present.keys()
            tag = _unescape(match[4])
            claims.append(_Claim(tag, float(match[1]), match[2], lists, rejected=not lists))
    missing: dict[str, set[Tag]] = {}  # by list, the tags of ours that it has lost
    overwritten = set()
    for name in _LISTS:
        ours = [claim.tag for claim in claims if name.prefix in claim.lists]
        lost = {tag for tag in ours if _key(_list_text(name, tag)) not in present[name.prefix]}
        missing[name.prefix] = lost
        if len(lost) == len(ours):
            overwritten.add(name.prefix)
    return [_judge(claim, missing, overwritten) for claim in claims]


def _judge(claim: _Claim, missing: Mapping[str, Set[Tag]], overwritten: Set[str]) -> _Claim:
    """Set the state of a claim from the lists that have lost its tag."""
    without = {name for name in claim.lists if claim.tag in missing[name]}
    rejected = claim.rejected or bool(without - overwritten)
    return claim._replace(stands=not without and not rejected, rejected=rejected)


def _list_text(name: Property, tag: Tag) -> str:
    """Return a tag as a list writes it: the last name alone, or the path."""
    if name is SUBJECT:
        return tag[-1]
    separator = _SEPARATORS[name]
    return separator.join(level.replace(separator, _LOOKALIKES[separator]) for level in tag)


def _split(text: str, separator: str) -> Tag:
    """Return the names of a path; empty for one of separators alone."""
    names = (name.replace(_LOOKALIKES[separator], separator) for name in text.split(separator))
    return clean_tag(names)


def _escape(tag: Tag) -> str:
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in tag)


def _unescape(text: str) -> Tag:
    names = re.findall(r"(?:[^\\|]|\\.)+", text, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in names)


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(_NOT_IN_XML.sub(" ", name).split()))


def _key(text: str) -> str:
    """Return the form by which keywords are compared."""
    return unicodedata.normalize("NFC", " ".join(text.split())).casefold()


def _tag_key(tag: Tag) -> TagKey:
    """Return the keys of a path's names, lookalikes replaced by the separators they stand for."""
    return tuple(_key(name.translate(_SEPARATOR_OF_LOOKALIKE)) for name in tag)
