"""Golden pages: a piece of markup for each rule, with the pairs that it gives."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.pairs.candidates import Candidate, Reason
from twotower.pairs.readers.html import MAX_DEPTH, Page, page_candidates
from twotower.pairs.readers.reading import Reading

PAGE = "https://site.example/blog/post.html"
HERE = "https://site.example/blog/"


def read(
    markup: str, url: str = PAGE, keep_refused: bool = False, language: str = ""
) -> tuple[list[Candidate], Counter[str]]:
    reading = Reading(keep_refused=keep_refused)
    page = Page(markup, url, "page", language)
    return list(page_candidates(page, reading)), reading.counts


def pairs(markup: str) -> list[tuple[str, str, str]]:
    return [(c.url.removeprefix(HERE), c.caption, c.caption_source) for c in read(markup)[0]]


RULES = {
    "alt": ('<img src=a.jpg alt=" A  red\n fox ">', [("a.jpg", "A red fox", "alt")]),
    "title": ('<img src=a.jpg alt="" title="A fox">', [("a.jpg", "A fox", "title")]),
    "equal texts once": ("<img src=a.jpg alt=Fox title=Fox>", [("a.jpg", "Fox", "alt")]),
    "NFC": ("<img src=a.jpg alt='cafe\u0301'>", [("a.jpg", "café", "alt")]),
    "figcaption": (
        "<figure><div><img src=a.jpg></div><figcaption>A <b>red</b> fox<br>runs"
        "<script>x()</script></figcaption></figure>",
        [("a.jpg", "A red fox runs", "figcaption")],
    ),
    "figcaption of several images": (
        "<figure><img src=a.jpg><img src=b.jpg><figcaption>Two foxes</figcaption></figure>",
        [],
    ),
    "inner figures": (
        "<figure><figure><img src=a.jpg><figcaption>Left fox</figcaption></figure>"
        "<figure><img src=b.jpg><figcaption>Right fox</figcaption></figure></figure>",
        [("a.jpg", "Left fox", "figcaption"), ("b.jpg", "Right fox", "figcaption")],
    ),
    "WordPress caption": (
        "<div class='wp-caption'><img src=a.jpg><p class='wp-caption-text'>A fox</p></div>",
        [("a.jpg", "A fox", "caption")],
    ),
    "MediaWiki thumb": (
        "<div class=thumbinner><img src=a.jpg><div class=thumbcaption>A fox</div></div>",
        [("a.jpg", "A fox", "caption")],
    ),
    "no caption class": (
        "<div><img src=a.jpg alt=Fox><p class='no-caption'>Other</p></div>",
        [("a.jpg", "Fox", "alt")],
    ),
    "caption far away": (
        "<body><div><div><div><img src=a.jpg alt=Fox></div></div></div>"
        "<p class=caption>Of what?</p>",
        [("a.jpg", "Fox", "alt")],
    ),
    "link around": (
        "<a href=/p><img src=a.jpg><h3>Teapot</h3><p>Blue</p></a>",
        [("a.jpg", "Teapot Blue", "anchor")],
    ),
    "thumbnail": ("<a href=full.jpg><img src=t.jpg alt=Fox></a>", [("full.jpg", "Fox", "alt")]),
    "page about a file": (
        "<a href='/wiki/File:Fox.jpg'><img src=t.jpg alt=Fox></a>",
        [("t.jpg", "Fox", "alt")],
    ),
    "link to a file": ("<a href=a.jpg>A fox</a>", [("a.jpg", "A fox", "anchor")]),
    "srcset": (
        "<img src=a.jpg srcset='b.jpg 300w, c.jpg 900w' alt=Fox>",
        [("c.jpg", "Fox", "alt")],
    ),
    "picture": (
        "<picture><source srcset='a.webp 900w'><img src=a.jpg alt=Fox></picture>",
        [("a.webp", "Fox", "alt")],
    ),
    "lazy with noscript": (
        "<img data-src=a.jpg src='data:image/gif;base64,R0' alt=Fox><noscript>"
        "<img src=a.jpg alt=Fox></noscript>",
        [("a.jpg", "Fox", "alt")],
    ),
    "noscript alone": (
        "<img class=lazy alt=Fox><noscript><img src=a.jpg alt=Fox></noscript>",
        [("a.jpg", "Fox", "alt")],
    ),
    "base": (
        "<base href='../img/'><img src=a.jpg alt=Fox>",
        [("https://site.example/img/a.jpg", "Fox", "alt")],
    ),
    "template": ("<template><img src=a.jpg alt=Fox></template>", []),
    "OpenGraph": (
        "<meta property=og:title content='A page'><meta property=og:image content=a.jpg>"
        "<meta property=og:image:alt content='A fox'><meta property=og:image content=b.jpg>",
        [("a.jpg", "A fox", "og"), ("a.jpg", "A page", "og"), ("b.jpg", "A page", "og")],
    ),
    "Twitter": (
        "<meta name=twitter:image content=a.jpg><meta name=twitter:image:alt content='A fox'>",
        [("a.jpg", "A fox", "og")],
    ),
    "JSON-LD": (
        '<script type="application/ld+json">{"@graph": [{"@type": "Recipe", "name": "Apple pie",'
        ' "image": ["a.jpg", {"@type": "ImageObject", "contentUrl": "b.jpg", "caption": "A slice",'
        ' "width": "640"}], "publisher": {"logo": "l.jpg", "name": "X"}}]}</script>',
        [
            ("a.jpg", "Apple pie", "schema"),
            ("b.jpg", "A slice", "schema"),
            ("b.jpg", "Apple pie", "schema"),
        ],
    ),
    "broken JSON-LD": ('<script type="application/ld+json">{"image": [</script>', []),
    "microdata": (
        "<div itemscope><h1 itemprop=name>Chair</h1><a itemprop=image href=a.jpg></a></div>",
        [("a.jpg", "Chair", "schema")],
    ),
    "upper case and unquoted": ("<IMG SRC=a.jpg ALT=Fox>", [("a.jpg", "Fox", "alt")]),
    "first of two attributes": ("<img src=a.jpg src=b.jpg alt=Fox>", [("a.jpg", "Fox", "alt")]),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule: str) -> None:
    markup, expected = RULES[rule]
    assert pairs(markup) == expected


LEFT_OUT = {
    Reason.SVG: "<img src=a.svg?x alt=Fox>",
    Reason.SMALL: "<img src=a.jpg width=16 alt=Fox>",
    Reason.BOILERPLATE_URL: "<img src=/static/site-logo.png alt=Fox>",
    Reason.NO_TEXT: "<img src=a.jpg alt=''>",
    Reason.BOILERPLATE_TEXT: "<img src=a.jpg alt='Company logo'>",
    Reason.FILE_NAME: "<img src=a.jpg alt=IMG_1234.jpg>",
    Reason.NO_LETTERS: "<img src=a.jpg alt='12 - 34'>",
    Reason.TEXT_TOO_LONG: f"<img src=a.jpg alt='{'fox ' * 400}'>",
    Reason.UNDECODED_TEXT: "<img src=a.jpg alt='fo\ufffd fox'>",
    Reason.CREDENTIALS: "<img src=https://me:pw@h.example/a.jpg alt=Fox>",
    Reason.CONTROL_CHARACTERS: "<img src='a\x01.jpg' alt=Fox>",
    Reason.OTHER_SCHEME: "<img src=blob:x alt=Fox>",
    Reason.DATA_URI: "<img src=data:image/gif;base64,R0lGOD alt=Fox>",
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_images_and_texts_that_are_left_out_are_counted(reason: Reason) -> None:
    candidates, counts = read(LEFT_OUT[reason])
    assert candidates == []
    assert counts == {"pages": 1, reason: 1}


@pytest.mark.parametrize(
    "url", ["/a/pixel-phone.jpg", "/iconic/view.jpg", "/logout/fox.jpg", "/badger/a.jpg"]
)
def test_words_that_contain_a_boilerplate_word_stay(url: str) -> None:
    assert len(pairs(f"<img src={url} alt=Fox>")) == 1


@pytest.mark.parametrize(
    "meta",
    [
        "<meta name=robots content='index, noai'>",
        "<meta name=ROBOTS content='NOINDEX'>",
        "<meta name=twotower content='none'>",
        "<meta name=tdm-reservation content=1>",
    ],
)
def test_a_page_that_refuses_is_obeyed_and_counted(meta: str) -> None:
    markup = f"<head>{meta}</head><img src=a.jpg alt=Fox>"
    assert read(markup) == ([], {"pages": 1, Reason.REFUSED: 1})
    assert len(read(markup, keep_refused=True)[0]) == 1


def test_the_language_is_that_of_the_page() -> None:
    image = "<img src=a.jpg alt=Fox>"
    assert read(f"<html lang=pt_br>{image}")[0][0].language == "pt-BR"
    meta = "<meta http-equiv=Content-Language content='de, en'>"
    assert read(meta + image, language="fr")[0][0].language == "de"
    assert read(image, language="fr")[0][0].language == "fr"
    assert read(f"<html lang='{'x' * 50}'>{image}")[0][0].language == ""


def test_a_saved_page_has_the_address_that_its_browser_noted() -> None:
    markup = "<!-- saved from url=(0026)https://old.example/a/ --><img src=b.jpg alt=Fox>"
    [candidate] = read(markup, url="")[0]
    assert (candidate.url, candidate.page_url) == (
        "https://old.example/a/b.jpg",
        "https://old.example/a/",
    )
    assert read("<img src=b.jpg alt=Fox>", url="")[1][Reason.RELATIVE_URL] == 1


def test_deep_pages_are_not_parsed() -> None:
    deep = "<div>" * 500_000 + "<img src=a.jpg alt=Fox>" + "</div>" * 500_000
    assert read(deep) == ([], {"pages": 1, Reason.TOO_DEEP: 1})
    shallow = "<div>" * (MAX_DEPTH - 10) + "<p>x</p>" * 8000 + "<img src=a.jpg alt=Fox>"
    assert len(read(shallow)[0]) == 1


@pytest.mark.parametrize(
    "markup",
    [
        "<img src=a.jpg alt='" + "x" * 3_000_000 + "'>",
        "<img " + " ".join(f"a{i}=1" for i in range(3000)) + " src=a.jpg alt=Fox>",
        "<img src='a\0.jpg' alt='F\0x'>",
        "<figure>" * 1500 + "<img src=a.jpg alt=Fox>" + "<figcaption>x" * 1500,
        "<a href=a.jpg>" * 2000 + "fox",
        "<p class=caption>" * 3000 + "<img src=a.jpg alt=Fox>",
        '<script type="application/ld+json">' + "[" * 100_000 + "</script>",
        '<script type="application/ld+json">{"name": "\\ud800", "image": "a.jpg"}</script>',
        "<img srcset='" + "(" * 100_000 + "' alt=Fox>",
        "<img src='" + "/.." * 600 + "' alt=Fox>",
        "<",
        "",
    ],
    ids=range(12),
)
def test_hostile_pages_end(markup: str) -> None:
    candidates, _ = read(markup)
    for candidate in candidates:
        candidate.caption.encode()


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            "<img src=a.jpg alt='fox|<figure>|</figure>|<figcaption>|>|'|\"|<a href=b.jpg>|</a>|"
            "<picture>|<source srcset='x 2x'>|<noscript>|<!--|-->|<table>|<td>|<p class=caption>|"
            "<svg>|<template>|</template>|<base href=|x|é|\0|&amp;|&#xD800;|<meta name=robots|"
            "<div itemscope>|<i itemprop='image name'>".split("|")
        ),
        max_size=25,
    ).map("".join)
)
def test_any_markup_gives_valid_candidates(markup: str) -> None:
    candidates, _ = read(markup)
    assert len({(c.url, c.caption) for c in candidates}) == len(candidates)
    for candidate in candidates:
        assert candidate.url.startswith("https://")
        assert candidate.caption == " ".join(candidate.caption.split())
        assert candidate.caption
