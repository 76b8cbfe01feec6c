"""Which keywords of an XMP packet are ours: our own are changed, a person's are only read.

Three lists carry keywords, since no program reads them all: `dc:subject` (names alone),
`lr:hierarchicalSubject` and `digiKam:TagsList` (paths). A fourth, `twotower:Tags`, is the mark. It
has an item for each tag of ours: the probability, the model, the lists to which we have added the
tag, and the tag:

    0.93 5f0c2a917be4 dc+lr+digiKam animal|dog|poodle

What a list holds and the mark does not claim is a person's. A tag that the mark claims and one of
its lists lacks, while it has others of ours, has been taken out by a person: it keeps `-` in place
of the lists, and is not written again.
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

SUBJECT = Property("dc", "http://purl.org/dc/elements/1.1/", "subject")
HIERARCHY = Property("lr", "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject")
TAGS_LIST = Property("digiKam", "http://www.digikam.org/ns/1.0/", "TagsList", "Seq")
MARK = Property("twotower", "http://ns.twotower/1.0/", "Tags")

# Lists of paths, the most telling first, and what stands between the names; the last two are only
# read. Inside a name stands what looks like the separator, since none of them can be escaped.
_PATHS = {
    TAGS_LIST: "/",
    HIERARCHY: "|",
    Property("MicrosoftPhoto", "http://ns.microsoft.com/photo/1.0/", "LastKeywordXMP"): "/",
    Property("mediapro", "http://ns.iview-multimedia.com/mediapro/1.0/", "CatalogSets"): "|",
}
_LOOKALIKES = {"/": "\N{DIVISION SLASH}", "|": "\N{BROKEN BAR}"}
_SIGNS = {ord(lookalike): sign for sign, lookalike in _LOOKALIKES.items()}
_LISTS = (SUBJECT, HIERARCHY, TAGS_LIST)
_ENTRY = re.compile(r"([01]\.\d\d) (\S+) (-|\S+) (.+)", re.DOTALL)
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MODEL_LENGTH = 12


@dataclass(frozen=True)
class Keywords:
    """What a picture, or one packet, is tagged with.

    Attributes:
        person: given by a person or another program; a flat keyword is a path of one name.
        ours: written by us and still there, with the probability of then.
        rejected: written by us and taken out by a person since.
    """

    person: tuple[Tag, ...] = ()
    ours: Mapping[Tag, float] = field(default_factory=dict)
    rejected: tuple[Tag, ...] = ()


class _Claim(NamedTuple):
    """An item of the mark: the lists to which we have added a tag, and what has become of it.

    It stands if all of them still have it. It is rejected if a person has taken it out, now or
    long ago (then it has no lists). It is neither if a list has lost all that was ours.
    """

    tag: Tag
    probability: float
    model: str
    lists: frozenset[str]
    stands: bool = True
    rejected: bool = False

    def __str__(self) -> str:
        lists = "+".join(name.prefix for name in _LISTS if name.prefix in self.lists)
        if self.rejected:
            lists = ""
        return f"{self.probability:.2f} {self.model} {lists or '-'} {_escaped(self.tag)}"


def clean_tag(tag: Iterable[str]) -> Tag:
    """The names as one line each, composed (NFC), without what XML cannot hold; none empty."""
    return tuple(name for name in map(_clean, tag) if name)


def read_keywords_of(packet: Packet) -> Keywords:
    """What one packet says."""
    return _keywords(packet, _claims(packet))


def _keywords(packet: Packet, claims: Sequence[_Claim]) -> Keywords:
    paths: dict[tuple[str, ...], Tag] = {}
    for name, separator in _PATHS.items():
        claimed = {_key(_written(name, one.tag)) for one in claims if _covers(one, name)}
        for text in packet.items(name):
            if _key(text) not in claimed and (tag := _split(text, separator)):
                paths.setdefault(_keys(tag), tag)
    # Programs repeat the names of a path in the flat list: there they are no keyword of their own.
    told = {part for path in paths for part in path}
    for one in claims:
        told.update(_keys(one.tag if SUBJECT.prefix in one.lists else one.tag[:-1]))
    for text in packet.items(SUBJECT):
        if (tag := clean_tag([text])) and _keys(tag)[0] not in told:
            paths.setdefault(_keys(tag), tag)
    return Keywords(
        person=tuple(paths.values()),
        ours={one.tag: one.probability for one in claims if one.stands},
        rejected=tuple(one.tag for one in claims if one.rejected and _keys(one.tag) not in paths),
    )


def combined(sources: Iterable[Keywords]) -> Keywords:
    """What several sources say of one picture; copies that programs made of ours are ours."""
    sources = list(sources)
    ours: dict[Tag, float] = {}
    for one in sources:
        ours.update({tag: p for tag, p in one.ours.items() if tag not in ours})
    person: dict[tuple[str, ...], Tag] = {}
    for one in sources:
        foreign = [tag for tag in ours if tag not in one.ours]
        known = {_keys(tag) for tag in foreign}
        told = {key for tag in foreign for key in _keys(tag)}
        told.update(key for tag in person.values() if len(tag) > 1 for key in _keys(tag))
        for tag in one.person:
            if _keys(tag) not in known and not (len(tag) == 1 and _keys(tag)[0] in told):
                person.setdefault(_keys(tag), tag)
    rejected = dict.fromkeys(tag for one in sources for tag in one.rejected)
    return Keywords(
        person=tuple(person.values()),
        ours={tag: p for tag, p in ours.items() if tag not in rejected},
        rejected=tuple(tag for tag in rejected if _keys(tag) not in person),
    )


def _covers(claim: _Claim, name: Property) -> bool:
    """Whether what a list says of a tag was said by us, or copied from us by a program."""
    return name.prefix in claim.lists or (name not in _LISTS and bool(claim.lists))


def keys_of(tags: Iterable[Tag]) -> frozenset[tuple[str, ...]]:
    """What to know tags by: those that people would call the same have one key."""
    return frozenset(_keys(clean_tag(tag)) for tag in tags)


def set_tags(
    content: bytes,
    tags: Mapping[Tag, float],
    model: str = "-",
    person: Iterable[Tag] = (),
    judged: Set[tuple[str, ...]] | None = None,
) -> bytes:
    """Make the tags that are ours in a packet be exactly `tags`, and leave the rest as it is.

    Tags that a person has given too, or has taken out, are left alone. A list that the packet does
    not have yet begins with the person's keywords: programs that read this list read no other, and
    the keywords would be hidden from them.

    Args:
        content: the packet's bytes.
        tags: each with its probability.
        model: the fingerprint of the model that says so.
        person: keywords of a person that are known from elsewhere, such as from the picture.
        judged: keys (see `keys_of`) of what `tags` decides: tags of ours that are not among them
            stay as they are. By default it decides all.

    Returns:
        The bytes, the same ones if there is nothing to change.

    Raises:
        XmpError: the packet cannot be read, or not be edited.
    """
    packet = Packet(content)
    before = _claims(packet)
    known = _keywords(packet, before)
    claimed = {_keys(one.tag) for one in before if not one.rejected}
    elsewhere = [tag for tag in person if tag and _keys(tag) not in claimed]
    theirs = list({_keys(tag): tag for tag in [*known.person, *elsewhere]}.values())
    refused = {_keys(tag) for tag in (*known.rejected, *theirs)}
    stay = [one for one in before if judged is not None and _keys(one.tag) not in judged]
    wanted: dict[tuple[str, ...], _Claim] = {}
    for tag, probability in tags.items():
        one = _Claim(clean_tag(tag), min(1.0, max(0.0, probability)), _model(model), frozenset())
        wanted.setdefault(_keys(one.tag), one)
    for one in stay:
        wanted.setdefault(_keys(one.tag), one)
    wanted = {key: one for key, one in wanted.items() if key and key not in refused}
    edits, lists = {}, {one.tag: set[str]() for one in wanted.values()}
    for name in _LISTS:
        ours = {_key(_written(name, one.tag)) for one in before if name.prefix in one.lists}
        there = {_key(text): text for text in packet.items(name)}
        texts = {tag: _written(name, tag) for tag in lists}
        if packet.has(name):
            begun: dict[str, str] = {}
        else:
            begun = {_key(text): text for text in (_written(name, tag) for tag in theirs)}
        desired = {}
        for tag, text in texts.items():
            key = _key(text)
            if key not in begun and (key in ours or key not in there):
                desired[key] = text
                lists[tag].add(name.prefix)
        # a name in a path that a person has given since is theirs too
        kept = {key for tag in known.person for key in _keys(tag)} if name is SUBJECT else set()
        remove = [there[key] for key in ours - kept - desired.keys() if key in there]
        add = [text for key, text in desired.items() if key not in there]
        edits[name] = Edit(remove, [*begun.values(), *add] if add else ())
    claims = [one for one in before if one.rejected]
    claims += [
        one._replace(lists=frozenset(lists[one.tag]), rejected=False)
        for one in wanted.values()
        if lists[one.tag]
    ]
    edits[MARK] = _difference(packet.items(MARK), map(str, claims))
    if not any(remove or add for remove, add in edits.values()):
        return content
    return packet.edited(edits)


def _difference(before: Iterable[str], after: Iterable[str]) -> Edit:
    before, after = list(before), list(after)
    there, wanted = set(before), set(after)
    return Edit(
        [text for text in before if text not in wanted],
        [text for text in after if text not in there],
    )


def _claims(packet: Packet) -> list[_Claim]:
    """The items of the mark, and whether the lists bear them out.

    A person takes out one tag or another. A list without any of ours was written by a program that
    had not read them, and says nothing about what a person thinks of them.
    """
    there = {name.prefix: {_key(text) for text in packet.items(name)} for name in _LISTS}
    claims = []
    for text in packet.items(MARK):
        if match := _ENTRY.fullmatch(text):
            lists = frozenset(match[3].split("+")) & there.keys()
            tag = _unescaped(match[4])
            claims.append(_Claim(tag, float(match[1]), match[2], lists, rejected=not lists))
    lost = {}  # by list, the tags that it has not
    overwritten = set()
    for name in _LISTS:
        ours = [one.tag for one in claims if name.prefix in one.lists]
        gone = {tag for tag in ours if _key(_written(name, tag)) not in there[name.prefix]}
        lost[name.prefix] = gone
        if len(gone) == len(ours):
            overwritten.add(name.prefix)
    found = []
    for one in claims:
        without = {name for name in one.lists if one.tag in lost[name]}
        rejected = one.rejected or bool(without - overwritten)
        found.append(one._replace(stands=not without and not rejected, rejected=rejected))
    return found


def _written(name: Property, tag: Tag) -> str:
    """A tag as a list has it: the last name alone, or the path."""
    if name is SUBJECT:
        return tag[-1]
    separator = _PATHS[name]
    return separator.join(part.replace(separator, _LOOKALIKES[separator]) for part in tag)


def _split(text: str, separator: str) -> Tag:
    """A path as its names. Raises nothing: a path of separators alone has none."""
    parts = (part.replace(_LOOKALIKES[separator], separator) for part in text.split(separator))
    return clean_tag(parts)


def _escaped(tag: Tag) -> str:
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in tag)


def _unescaped(text: str) -> Tag:
    parts = re.findall(r"(?:[^\\|]|\\.)+", text, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts)


def _clean(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(_NOT_IN_XML.sub(" ", name).split()))


def _key(text: str) -> str:
    """What two keywords share that people would call the same."""
    return unicodedata.normalize("NFC", " ".join(text.split())).casefold()


def _keys(tag: Tag) -> tuple[str, ...]:
    """The same for the names of a path, where a sign may stand for one that it looks like."""
    return tuple(_key(name.translate(_SIGNS)) for name in tag)


def _model(fingerprint: str) -> str:
    return re.sub(r"\s", "", fingerprint)[:_MODEL_LENGTH] or "-"
