"""Addresses that may be contacted."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.pairs.fetching.addresses import is_public_address, parse_url


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(ip: str) -> None:
    assert is_public_address(ip)
    assert is_public_address(ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    "ip",
    """127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0
    255.255.255.255 224.0.0.1 240.0.0.1 192.0.2.1 198.18.0.1 :: ::1 fe80::1 fe80::1%eth0 fc00::1
    fec0::1 ff02::1 2001:db8::1 ::ffff:10.0.0.1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1
    2001:0:7f00:1:: localhost 1.2.3 """.split(),
)
def test_other_addresses(ip: str) -> None:
    assert not is_public_address(ip)


def test_no_text_is_no_address() -> None:
    assert not is_public_address("")


@given(st.ip_addresses(v=4))
def test_embedded_addresses_are_judged_as_themselves(ip: ipaddress.IPv4Address) -> None:
    mapped = ipaddress.IPv6Address(f"::ffff:{ip}")
    translated = ipaddress.IPv6Address(f"64:ff9b::{ip}")
    assert is_public_address(mapped) == is_public_address(translated) == is_public_address(ip)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("http://example.com:80/a?b#c", "http://example.com/a?b"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com:80/", "https://example.com:80/"),
        (" http://example.com/a%20b\n", "http://example.com/a%20b"),
        ("http://b\u00fccher.example/\u00e4", "http://xn--bcher-kva.example/\u00e4"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080/"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    url = parse_url(text)
    assert url is not None
    assert url.text == canonical
    assert parse_url(url.text) == url


@pytest.mark.parametrize(
    "text",
    ["", "a", "//a/b", "ftp://a/b", "http://", "http:///a", "http://u:p@a/", "http://u@a/",
     "http://a b/", "http://a/\x00", "http://a\\b/", "http://a:b/", "http://a:0/", "http://a:70000/",
     "http://[::1/", "http://a..b/", "http://-a-/", "http://\ud800/", "http://a/\udcff",
     "javascript:alert(1)", "http://" + "a" * 10_000],
)  # fmt: skip
def test_refused_urls(text: str) -> None:
    assert parse_url(text) is None


@given(st.text())
def test_parsing_never_raises_and_is_stable(text: str) -> None:
    for candidate in (text, f"http://{text}", f"http://a.test/{text}"):
        url = parse_url(candidate)
        assert url is None or parse_url(url.text) == url
