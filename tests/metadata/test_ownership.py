"""Our tags are added to and removed from a person's sidecars, and nothing else changes."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.metadata.packets import (
    DIGIKAM,
    LIGHTROOM,
    NAMES,
    NAMESPACES,
    RDF,
    SAMPLES,
    TAGGINGS,
    TAGS,
    sidecars,
    unhurried,
)
from twotower.errors import MetadataError
from twotower.metadata.ownership import (
    HIERARCHY,
    MARK,
    SUBJECT,
    TAGS_LIST,
    Keywords,
    clean_tag,
    merge_keywords,
    packet_keywords,
    set_tags,
    tag_keys,
)
from twotower.metadata.xmp import NEW_PACKET, Edit, Packet, Property

POODLE = {("animal", "dog", "poodle"): 0.93}


def keywords(content: bytes) -> Keywords:
    return packet_keywords(Packet(content))


def decoded(content: bytes) -> str:
    if b"ISO-8859-1" in content:
        return content.decode("latin-1")
    for codec in ("utf-8", "utf-16"):
        try:
            return content.decode(codec)
        except UnicodeError:
            continue
    raise AssertionError


def keys(tags: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return tags without regard to capitals and to lookalikes of separators."""
    plain = {ord("∕"): "/", ord("¦"): "|"}
    return {tuple(name.translate(plain).casefold() for name in clean_tag(tag)) for tag in tags}


def tree(content: bytes) -> list[tuple[str, dict[str, str], str]]:
    """Return the elements outside the lists of keywords, by another parser than ours."""
    root = ET.fromstring(decoded(content).strip("\ufeff\0\r\n "))
    ours = {name.key.replace(" ", "}") for name in (SUBJECT, HIERARCHY, TAGS_LIST, MARK)}
    elements = []

    def walk(element: ET.Element) -> None:
        if element.tag.removeprefix("{") in ours:
            return
        inner = [element.text or "", *(child.tail or "" for child in element)]
        empty = element.tag == f"{{{RDF}}}Description" and not element.attrib.keys() - {
            f"{{{RDF}}}about"
        }
        if not empty:
            elements.append((element.tag, element.attrib, "".join(inner).strip()))
        for child in element:
            walk(child)

    walk(root)
    return elements


@pytest.mark.parametrize("name", SAMPLES)
def test_what_programs_write_stays_and_comes_back(name: str) -> None:
    before = SAMPLES[name]
    person = keywords(before).person
    after = set_tags(before, {**POODLE, ("Straße", "日本", 'a & "b"'): 0.5}, "0123456789abcdef")
    assert keywords(after) == Keywords(
        person, {**POODLE, ("Straße", "日本", 'a & "b"'): 0.5}, rejected=()
    )
    assert tree(after) == tree(before)
    remaining = iter(decoded(after).replace("></rdf:RDF>", "/>"))
    assert all(character in remaining for character in decoded(before))  # nothing was removed
    cleared = set_tags(after, {})
    if all(Packet(before).has(name) for name in (SUBJECT, HIERARCHY, TAGS_LIST)) or not person:
        assert cleared == before.replace(b"/></x:x", b">\n </rdf:RDF></x:x")
    assert keywords(cleared) == Keywords(person)


def test_the_very_bytes() -> None:
    after = set_tags(DIGIKAM.encode(), POODLE, "0123456789abcdef").decode()
    expected = (
        DIGIKAM.replace(
            "<rdf:li>beach</rdf:li>\n    </rdf:Seq>",
            "<rdf:li>beach</rdf:li>\n     <rdf:li>animal/dog/poodle</rdf:li>\n    </rdf:Seq>",
        )
        .replace(
            "<rdf:li>beach</rdf:li>\n    </rdf:Bag>\n   </lr",
            "<rdf:li>beach</rdf:li>\n     <rdf:li>animal|dog|poodle</rdf:li>\n"
            "    </rdf:Bag>\n   </lr",
        )
        .replace(
            "<rdf:li>beach</rdf:li>\n    </rdf:Bag>\n   </dc",
            "<rdf:li>beach</rdf:li>\n     <rdf:li>poodle</rdf:li>\n    </rdf:Bag>\n   </dc",
        )
        .replace(
            "\n </rdf:RDF>",
            '\n  <rdf:Description rdf:about=""\n    xmlns:twotower="http://ns.twotower/1.0/">\n'
            "   <twotower:Tags>\n    <rdf:Bag>\n"
            "     <rdf:li>0.93 0123456789ab dc+lr+digiKam animal|dog|poodle</rdf:li>\n"
            "    </rdf:Bag>\n   </twotower:Tags>\n  </rdf:Description>\n </rdf:RDF>",
        )
    )
    assert after == expected


@unhurried
@given(sidecars(), TAGGINGS, TAGGINGS, st.lists(TAGS, max_size=3))
def test_any_sidecar_and_any_tags(
    before: bytes, tags: dict, new_tags: dict, person: list[tuple[str, ...]]
) -> None:
    theirs = keywords(before)
    assert not theirs.ours and not theirs.rejected
    after = set_tags(before, tags, "model", person)
    assert tree(after) == tree(before)
    now = keywords(after)
    # the name of a tag's parent that is only in the flat list may be a copy of ours
    parents = {
        path[:1] for tag in (*tags, *new_tags) for path in keys((name,) for name in tag[:-1])
    }
    assert keys(theirs.person) - parents <= keys(now.person) and not now.rejected
    assert keys(tags) <= keys([*now.person, *now.ours, *person])
    assert set_tags(after, tags, "model", person) == after
    third = set_tags(after, new_tags, "other")
    assert tree(third) == tree(before)
    assert keys(theirs.person) - parents <= keys(keywords(third).person)
    cleared = set_tags(third, {})
    assert keywords(cleared).ours == {}
    # such a name counts as theirs once more, when the path that it was part of is removed
    assert keys(keywords(cleared).person) - parents == keys(now.person) - parents
    assert (
        keys(now.person) <= keys(keywords(cleared).person) <= keys(now.person) | keys(theirs.person)
    )
    if not theirs.person and not person:
        assert cleared == before


@unhurried
@given(sidecars(), TAGGINGS, TAGGINGS, st.lists(TAGS, max_size=3))
def test_what_is_not_judged_stays(
    before: bytes, tags: dict, new_tags: dict, judged_tags: list
) -> None:
    after = set_tags(before, tags, "model")
    judged = tag_keys([*new_tags, *judged_tags])
    then = keywords(set_tags(after, new_tags, "other", judged=judged))
    assert keys(then.ours) >= keys(tag for tag in keywords(after).ours) - judged
    assert keys(then.ours) & judged <= keys(new_tags)
    assert keys(then.person) == keys(keywords(after).person)
    assert set_tags(after, {}, judged=frozenset()) == after


def test_what_stays_keeps_its_probability_and_model() -> None:
    after = set_tags(NEW_PACKET, {**POODLE, ("sea",): 0.5}, "first")
    repeated = set_tags(after, {("sky",): 0.75}, "second", judged=tag_keys([("SEA",), ("sky",)]))
    assert sorted(Packet(repeated).items(MARK)) == [
        "0.75 second dc+lr+digiKam sky",
        "0.93 first dc+lr+digiKam animal|dog|poodle",
    ]


@unhurried
@given(TAGGINGS)
def test_ours_read_back_exactly(tags: dict) -> None:
    clean = {clean_tag(tag): probability for tag, probability in tags.items()}
    now = keywords(set_tags(NEW_PACKET, tags))
    assert set(now.ours) <= set(clean) and len(now.ours) == len(keys(clean))
    assert not now.person
    assert set_tags(set_tags(NEW_PACKET, tags), {}) == NEW_PACKET


def test_ten_thousand_tags() -> None:
    tags = {("all", str(number)): 0.5 for number in range(10_000)}
    content = set_tags(NEW_PACKET, tags)
    assert keywords(content).ours == tags
    assert set_tags(content, {}) == NEW_PACKET


def test_darktables_own_tags_are_not_a_persons() -> None:
    """It writes their last names into the flat list too."""
    lists = {
        "dc:subject": ("changed", "rw2", "1. Develop Filmic", "Lima", "darktable fan"),
        "lr:hierarchicalSubject": (
            *("darktable|changed", "darktable|format|rw2", "Darktable|style|1. Develop Filmic"),
            *("Country|Peru|Lima", "darktable fan"),
        ),
    }
    items = ""
    for name, texts in lists.items():
        bag = "".join(f"<rdf:li>{text}</rdf:li>" for text in texts)
        items += f"<{name}><rdf:Bag>{bag}</rdf:Bag></{name}>"
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    description = f"<rdf:Description {spaces}>{items}</rdf:Description>"
    packet = f'<rdf:RDF xmlns:rdf="{RDF}">{description}</rdf:RDF>'
    assert keywords(packet.encode()).person == (("Country", "Peru", "Lima"), ("darktable fan",))


def test_a_persons_keyword_is_never_ours() -> None:
    tags = {("People", "Grandmother"): 0.9, ("BEACH",): 0.8, ("sea",): 0.7}
    after = set_tags(LIGHTROOM.encode(), tags)
    assert keywords(after).ours == {("sea",): 0.7}
    assert keywords(set_tags(after, {})).person == (("People", "Grandmother"), ("beach",))

    # the same name in another path: the flat list has it once, and it is theirs
    after = set_tags(LIGHTROOM.encode(), {("family", "Grandmother"): 0.9})
    assert Packet(after).items(SUBJECT).count("Grandmother") == 1
    assert Packet(set_tags(after, {})).items(SUBJECT) == ["Grandmother", "People", "beach"]


def test_lists_that_are_begun_do_not_hide_keywords() -> None:
    """darktable reads dc:subject only without a hierarchy; digiKam reads the first list present."""
    content = SAMPLES["exiftool"]
    assert keywords(content).person == (("beach",), ("Grandmother",))
    packet = Packet(set_tags(content, POODLE, person=[("trips", "Rome")]))
    assert packet.items(SUBJECT) == ["beach", "Grandmother", "poodle"]
    flat = ["beach", "Grandmother"]
    assert packet.items(HIERARCHY) == [*flat, "trips|Rome", "animal|dog|poodle"]
    assert packet.items(TAGS_LIST) == [*flat, "trips/Rome", "animal/dog/poodle"]


@pytest.mark.parametrize("lost", ["<rdf:li>poodle</rdf:li>", "<rdf:li>animal/dog/poodle</rdf:li>"])
def test_what_a_person_took_out_stays_out(lost: str) -> None:
    after = set_tags(DIGIKAM.encode(), {**POODLE, ("sea",): 0.5})
    edited = after.replace(lost.encode(), b"")
    assert edited != after
    assert keywords(edited).rejected == tuple(POODLE) and keywords(edited).ours == {("sea",): 0.5}
    repeated = set_tags(edited, POODLE)
    assert keywords(repeated) == Keywords(keywords(DIGIKAM.encode()).person, {}, tuple(POODLE))
    for name in (SUBJECT, HIERARCHY, TAGS_LIST):  # its other entries are removed too
        assert not any("poodle" in text for text in Packet(repeated).items(name))
    assert keywords(set_tags(repeated, {**POODLE, ("sky",): 0.6})).ours == {("sky",): 0.6}
    # now the person gives it too
    theirs = repeated.replace(
        b"<rdf:li>beach<", b"<rdf:li>animal|dog|poodle</rdf:li><rdf:li>beach<"
    )
    assert keywords(theirs).rejected == () and next(iter(POODLE)) in keywords(theirs).person


def test_a_list_that_a_program_overwrote_says_nothing_of_a_person() -> None:
    """darktable and digiKam write what their database has, unless they are set to read first."""
    tags = {**POODLE, ("nature", "sea"): 0.5}
    after = set_tags(DIGIKAM.encode(), tags)
    for lost in (
        (b"animal|dog|poodle", b"nature|sea", b"poodle", b"sea"),
        (b"animal/dog/poodle", b"nature/sea"),
    ):
        overwritten, mark, end = after.partition(b"<twotower:Tags>")
        for text in lost:
            overwritten = overwritten.replace(b"     <rdf:li>" + text + b"</rdf:li>\n", b"")
        overwritten += mark + end
        assert overwritten != after
        assert keywords(overwritten) == Keywords(keywords(after).person)
        assert keywords(set_tags(overwritten, tags)) == keywords(after)
        assert keywords(set_tags(overwritten, {})) == Keywords(keywords(after).person)


def test_a_tag_that_a_person_moved_keeps_its_name() -> None:
    after = set_tags(DIGIKAM.encode(), POODLE)
    moved = after.replace(b"animal|dog|", b"pets|").replace(b"animal/dog/", b"pets/")
    moved = moved.replace(b"digiKam pets|", b"digiKam animal|dog|")  # they do not change the mark
    assert ("pets", "poodle") in keywords(moved).person
    repeated = set_tags(moved, {("sea",): 0.5})
    assert "poodle" in Packet(repeated).items(SUBJECT)
    assert ("pets", "poodle") in keywords(repeated).person and ("poodle",) not in keywords(
        repeated
    ).person


def test_copies_that_programs_make_of_ours_are_ours() -> None:
    after = set_tags(DIGIKAM.encode(), POODLE)
    copied = after.replace(  # as digiKam saves it, and Lightroom with the parents' names
        b"<rdf:li>beach</rdf:li>\n    </rdf:Bag>\n   </MicrosoftPhoto",
        b"<rdf:li>beach</rdf:li><rdf:li>animal/dog/poodle</rdf:li></rdf:Bag></MicrosoftPhoto",
    ).replace(b"<rdf:li>poodle</rdf:li>", b"<rdf:li>dog</rdf:li><rdf:li>poodle</rdf:li>")
    assert copied.count(b"poodle") == after.count(b"poodle") + 1
    assert keywords(copied) == keywords(after)
    sources = [keywords(after), Keywords((("poodle",), ("dog",), ("tree",)))]  # IPTC repeats them
    assert merge_keywords(sources).person == (*keywords(after).person, ("tree",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no element"),
        (b"hello", "not XML"),
        (b"<a><b></a>", "line 1: mismatched tag"),
        (b"<html/>", "no XMP is in it"),
        (b"\xff\xfe<\0a\0", "not XML"),
        (b"<a>\xff</a>", "not text in utf-8"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "klingon"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "DOCTYPE"),
        (SAMPLES["digiKam"][:-20], "not XML"),
    ],
)
def test_what_is_no_xmp_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(MetadataError, match=reason):
        set_tags(content, POODLE)


def test_lists_that_are_written_oddly() -> None:
    frame = (
        f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{SUBJECT.uri}"><rdf:Description {{}}'
        "</rdf:Description></rdf:RDF>"
    )
    for inside in (
        "><dc:subject>sea</dc:subject>",
        "><dc:subject><rdf:Seq><rdf:li> sea </rdf:li></rdf:Seq></dc:subject>",
        "><dc:subject><rdf:Bag><rdf:li>sea</rdf:li><rdf:li><b/>x</rdf:li></rdf:Bag></dc:subject>",
    ):
        after = set_tags(frame.format(inside).encode(), POODLE)
        assert keywords(after) == Keywords((("sea",),), POODLE)
    for inside in (
        "><dc:subject/>",
        "><dc:subject></dc:subject>",
        "><dc:subject><rdf:Bag/></dc:subject>",
    ):
        after = set_tags(frame.format(inside).encode(), POODLE)
        assert keywords(after) == Keywords((), POODLE)
        assert keywords(set_tags(after, {})) == Keywords()
    attribute = frame.format('dc:subject="sea">').encode()
    assert keywords(attribute) == Keywords((("sea",),))
    structure = frame.format('><dc:subject rdf:parseType="Resource"><dc:a/></dc:subject>').encode()
    for content, reason in ((attribute, "attribute"), (structure, "structure")):
        with pytest.raises(MetadataError, match=reason):
            set_tags(content, POODLE)


@unhurried
@given(NAMES, NAMES)
def test_edits_of_one_list(name_a: str, name_b: str) -> None:
    name = Property("p", "urn:p", "List")
    content = Packet(NEW_PACKET).edited({name: Edit(add=[name_a, name_b])})
    assert Packet(content).items(name) == [name_a, name_b]
    shorter = Packet(content).edited({name: Edit(remove=[name_a])})
    assert Packet(shorter).items(name) == [name_b]
    assert Packet(shorter).edited({name: Edit(remove=[name_b])}) == NEW_PACKET
