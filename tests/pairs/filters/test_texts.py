"""Texts by themselves: quality, contacts and languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import PairsError
from twotower.pairs.filters.settings import KEPT, REASONS, FilterSettings
from twotower.pairs.filters.texts import (
    check_languages,
    contact_fault,
    normal_form,
    text_fault,
    text_key,
    text_reasons,
    words_of,
)

SETTINGS = FilterSettings()

GOOD = """A man in a red shirt climbs a rock.
Zwei Hunde spielen im Schnee
Red velvet cake with cream cheese, 12 slices
The 1969 Apollo 11 crew: Armstrong, Collins, Aldrin
Iphone 12 Pro 256 GB in blue
Click beetle on a green leaf
Share of renewable energy in Germany 1990-2020
Home office with a wooden desk
A photo of a dog catching a frisbee
Logo of the Olympic Games in Paris 2024
Следы на снегу возле леса
東京タワーの夜景
هرم خوفو في الجيزة
पहाड़ों में एक पुराना मंदिर
Map of Europe in 1914 (1920 x 1080)
AT&T building, New York, at night
Profile of a horse's head""".splitlines()


@pytest.mark.parametrize("text", GOOD)
def test_descriptions_are_kept(text: str) -> None:
    assert text_fault(text, SETTINGS) == ""
    assert contact_fault(text) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("dog", "too short"),
        ("red car", "too short"),
        ("a b c", "too short"),
        ("犬", "too short"),
        ("word " * 300, "too long"),
        ("x" * 6000, "too long"),
        ("12345 67 890 - 33 44 $$$ a", "few letters"),
        ("sale sale sale sale sale shoes", "repeated words"),
        ("<b>red shoes</b> for men", "markup"),
        ("Tom &amp; Jerry in the kitchen", "markup"),
        ("[caption id=12] red shoes for men", "markup"),
        ("{{ product.title }} in red colour", "markup"),
        ("body { color: red; } some more text", "markup"),
        ("IMG_20190304_123456.jpg", "file name or address"),
        ("holiday in rome 2019.jpeg", "file name or address"),
        ("DSC01234", "file name or address"),
        ("Screenshot 2021-03-04 at 10.11.12", "file name or address"),
        ("image (12)", "file name or address"),
        ("red-shoes-for-men-new-2020", "file name or address"),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", "file name or address"),
        ("visit https://example.org/x for more", "file name or address"),
        ("image", "boilerplate"),
        ("Photo", "boilerplate"),
        ("click here", "boilerplate"),
        ("Click here to view a larger version", "boilerplate"),
        ("no image available", "boilerplate"),
        ("Image not available", "boilerplate"),
        ("default avatar", "boilerplate"),
        ("Featured image for the post", "boilerplate"),
        ("View full size image", "boilerplate"),
        ("Share on Facebook", "boilerplate"),
        ("Read more", "boilerplate"),
        ("Image may contain: 1 person, smiling", "boilerplate"),
    ],
)
def test_faults_are_named(text: str, fault: str) -> None:
    assert text_fault(text, SETTINGS) == fault


@pytest.mark.parametrize(
    "text",
    [
        "write to jane.doe@example.org for prints",
        "jane (at) example (dot) org sells this lamp",
        "contact jane at example dot com for prints",
        "JANE.DOE+art@EXAMPLE.CO.UK",
    ],
)
def test_addresses_are_found(text: str) -> None:
    assert contact_fault(text) == "e-mail address"


@pytest.mark.parametrize(
    "text",
    [
        "house for sale, call +49 30 1234567",
        "call (555) 123-4567 for this car",
        "555-123-4567 taxi in town",
        "Tel: 030/1234567 Pizzeria Roma",
        "WhatsApp 0171 2345678 for orders",
        "+1.555.123.4567",
        "0044 20 7946 0958 London office",
    ],
)
def test_phone_numbers_are_found(text: str) -> None:
    assert contact_fault(text) == "phone number"


@pytest.mark.parametrize(
    "text",
    [
        "wallpaper 1920x1080 of a mountain lake",
        "the years 1914-1918 and 1939-1945",
        "price 1.299.000 euro, 120 m2, built in 1998",
        "a look at 3 houses, 2020-01-31",
        "ISBN 978-3-16-148410-0 cover of the book",
        "score 5-3 in game 12 of 24",
        "model number 4567 8901 in black",
        "a photo @ the beach at sunset",
        "a cell with 23 chromosomes",
    ],
)
def test_numbers_are_no_contacts(text: str) -> None:
    assert contact_fault(text) == ""


def test_the_earliest_filter_gives_the_reason() -> None:
    texts = ["", "dog", "mail me@example.org about the dog", "a dog on the beach"]
    reasons = [code and REASONS[code - 1] for code in text_reasons(texts, SETTINGS)]
    assert reasons == [
        ("readable", "no caption"),
        ("text", "too short"),
        ("contact", "e-mail address"),
        KEPT,
    ]
    skipped = FilterSettings(skipped=("text", "contact"))
    assert text_reasons(texts[1:], skipped) == [KEPT] * 3


def test_languages_are_restricted() -> None:
    texts = ["A man and a dog are walking along the beach", "Zwei Hunde spielen im Schnee am Haus"]
    languages = [text_reasons(texts, FilterSettings(languages=(code,))) for code in ("en", "de")]
    assert [bool(reason) for reason in languages[0]] == [False, True]
    assert [bool(reason) for reason in languages[1]] == [True, False]
    assert text_reasons(texts, FilterSettings(languages=("en", "de"))) == [KEPT, KEPT]
    with pytest.raises(PairsError, match="no language that can be identified"):
        check_languages(["xx"])


def test_equal_texts_have_equal_keys() -> None:
    assert text_key("A  red Car!") == text_key("a red\ncar")
    assert text_key("a red car") != text_key("a red cat")
    assert normal_form("Ｆull　width, “quoted”") == "full width quoted"
    assert words_of("寿司 and rice") == ["寿", "司", "and", "rice"]


@given(st.text(max_size=300))
def test_any_text_has_a_reason_or_none(text: str) -> None:
    [reason] = text_reasons([text], SETTINGS)
    assert 0 <= reason <= len(REASONS)
    text_key(text)


def test_hostile_texts_take_bounded_time() -> None:
    for text in ("a" * 100_000, "a@" * 50_000, "1 " * 50_000, "<a" * 50_000, "a_" * 2400):
        text_reasons([text], SETTINGS)
        contact_fault(text)


def test_unknown_settings_are_errors() -> None:
    with pytest.raises(PairsError, match="no such filter"):
        FilterSettings(skipped=("txt",))
    with pytest.raises(PairsError, match="share above 0"):
        FilterSettings(score_share=0)
