from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.pairs.candidates import Reason
from twotower.pairs.readers.urls import BaseUrl, UrlError, normalize_url

PAGE = "https://site.example/blog/2024/post.html?x=1#top"


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("a.jpg", "https://site.example/blog/2024/a.jpg"),
        ("./a.jpg", "https://site.example/blog/2024/a.jpg"),
        ("../../../../a.jpg", "https://site.example/a.jpg"),
        ("/a.jpg#x", "https://site.example/a.jpg"),
        ("//cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        ("?size=2", "https://site.example/blog/2024/post.html?size=2"),
        ("HTTP://Site.Example:80/a.jpg", "http://site.example/a.jpg"),
        ("https://site.example:8443/a", "https://site.example:8443/a"),
        ("https://site.example", "https://site.example/"),
        ("  /a b.jpg\n", "https://site.example/a%20b.jpg"),
        ("/a\n/b.jpg", "https://site.example/a/b.jpg"),
        ("\\img\\a.jpg", "https://site.example/img/a.jpg"),
        ("/é.jpg", "https://site.example/%C3%A9.jpg"),
        ("/100%.jpg", "https://site.example/100%25.jpg"),
        ("https://bücher.example/a.jpg", "https://xn--bcher-kva.example/a.jpg"),
        ("https:/a.jpg", "https://site.example/a.jpg"),
        ("https://site.example/x/../a.jpg", "https://site.example/a.jpg"),
        ("http://[2001:db8::1]/a.jpg", "http://[2001:db8::1]/a.jpg"),
    ],
)
def test_references_are_joined_as_browsers_do(reference: str, url: str) -> None:
    assert BaseUrl(PAGE).join(reference) == url


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("", Reason.NO_URL),
        ("https://user:secret@site.example/a.jpg", Reason.CREDENTIALS),
        ("https://user@site.example/a.jpg", Reason.CREDENTIALS),
        ("/a\x00b.jpg", Reason.CONTROL_CHARACTERS),
        ("/a\u202eb.jpg", Reason.CONTROL_CHARACTERS),
        ("javascript:alert(1)", Reason.OTHER_SCHEME),
        ("blob:https://site.example/1", Reason.OTHER_SCHEME),
        ("file:///etc/passwd", Reason.OTHER_SCHEME),
        ("https://", Reason.MALFORMED_URL),
        ("https://a..b/x", Reason.MALFORMED_URL),
        ("https://site.example:99999/a", Reason.MALFORMED_URL),
        ("http://[::1/a", Reason.MALFORMED_URL),
        ("https://a b/x", Reason.MALFORMED_URL),
        ("/" + "a" * 3000, Reason.URL_TOO_LONG),
        ("/a\ufffd.jpg", Reason.WRONG_ENCODING),
        ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", Reason.DATA_URI),
        ("data:text/html;base64," + "A" * 4000, Reason.DATA_URI),
        ("data:image/svg+xml;base64," + "A" * 4000, Reason.SVG),
    ],
)
def test_unusable_references_have_a_reason(reference: str, reason: Reason) -> None:
    with pytest.raises(UrlError) as caught:
        BaseUrl(PAGE).join(reference)
    assert caught.value.reason is reason


def test_a_picture_in_a_data_uri_is_kept() -> None:
    uri = "data:image/png;base64," + "A" * 4000
    assert BaseUrl().join(uri) == uri


def test_relative_references_need_a_base() -> None:
    with pytest.raises(UrlError) as caught:
        BaseUrl().join("a.jpg")
    assert caught.value.reason is Reason.RELATIVE_URL
    assert BaseUrl().join("https://h.example/a.jpg") == "https://h.example/a.jpg"


names = st.text("abcXYZ019-_~!$&'()*+,=@", min_size=1, max_size=6)
segments = st.lists(names | st.sampled_from([".", ".."]), max_size=6)


@given(segments, st.sampled_from(["", "/", "./", "../", "?q=1&r=2"]))
def test_ordinary_references_are_joined_as_by_urllib(path: list[str], start: str) -> None:
    reference = start + "/".join(path)
    if not reference or reference.startswith("//"):
        return
    # urllib keeps the dots that lead above the root of an absolute path
    expected = normalize_url(urljoin(PAGE, reference).split("#")[0])
    assert BaseUrl(PAGE).join(reference) == expected
    assert "/../" not in expected.partition("?")[0]


@given(st.text(max_size=60) | st.text(max_size=30).map("https://site.example/".__add__))
def test_any_reference_gives_a_safe_url_or_a_reason(reference: str) -> None:
    try:
        url = BaseUrl(PAGE).join(reference)
    except UrlError:
        return
    assert url.startswith(("http://", "https://"))
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    assert "@" not in url.split("/")[2]
    assert normalize_url(url) == url
    assert BaseUrl(PAGE).join(url) == url
