"""Addresses of images: joined with their page's, checked and normalised."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin, urlsplit

from twotower.pairs.candidates import Reason

MAX_URL = 2048  # characters; longer ones hold tokens that expire
MIN_DATA_URI, MAX_DATA_URI = 2_000, 262_144  # characters; shorter ones are placeholders
DEFAULT_PORTS = {"http": 80, "https": 443}
# A URL that normalising leaves as it is, except for segments that begin with a dot.
_NORMAL = re.compile(
    r"https?://[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
    r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HOST = re.compile(
    r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\.?"
)
_IPV6 = re.compile(r"\[[0-9a-f:.]+\]")
_DATA_URI = re.compile(r"data:image/(?:jpe?g|png|webp|gif|avif|bmp);base64,[A-Za-z0-9+/]+={0,2}")
_DROPPED = str.maketrans("", "", "\t\n\r")
_EDGES = "".join(map(chr, range(33)))  # the C0 controls and the space
_SAFE_IN_PATH = "!$&'()*+,;=:@/%~"
_SAFE_IN_QUERY = _SAFE_IN_PATH + "?[]{}|^`"
_SVG = re.compile(r"\.svgz?(?:$|[?#])", re.IGNORECASE)


class UrlError(ValueError):
    """A URL cannot be used.

    Attributes:
        reason: to be counted.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason)


class BaseUrl:
    """The address that relative ones are joined with; empty if it is unknown.

    Attributes:
        url: absolute and normalised, or "".
    """

    def __init__(self, url: str = "") -> None:
        try:
            self.url = normalize_url(clean_url(url)) if url else ""
        except UrlError:
            self.url = ""
        split = urlsplit(self.url)
        self._scheme = split.scheme
        self._origin = f"{split.scheme}://{split.netloc}"

    def join(self, reference: str) -> str:
        """Return the absolute URL that a reference means in this place.

        Raises:
            UrlError: it is malformed, or neither http, https nor a data URI of a picture.
        """
        if reference[:5].lower() == "data:":
            return _check_data_uri(reference)
        reference = clean_url(reference)
        if reference[:8].lower().startswith(("http://", "https://")):
            return normalize_url(reference)
        if scheme := _SCHEME.match(reference):
            if scheme[0].lower() not in ("http:", "https:"):
                raise UrlError(Reason.OTHER_SCHEME)
            # "https:photo.jpg" and "https:/photo.jpg" are relative in pages of that scheme
            reference = reference[scheme.end() :]
        if not self.url:
            raise UrlError(Reason.RELATIVE_URL)
        reference = _slashes(reference)
        if reference.startswith("//"):
            return normalize_url(f"{self._scheme}:{reference}")
        if reference.startswith("/"):
            return normalize_url(self._origin + reference)
        try:
            return normalize_url(urljoin(self.url, reference))
        except ValueError as error:
            raise UrlError(getattr(error, "reason", Reason.MALFORMED_URL)) from None


def clean_url(url: str) -> str:
    """Return a URL without the white space that browsers ignore.

    Raises:
        UrlError: it is empty, too long, or has control characters.
    """
    url = url.strip(_EDGES)
    if not url:
        raise UrlError(Reason.NO_URL)
    if len(url) > MAX_URL:
        raise UrlError(Reason.URL_TOO_LONG)
    if not url.isprintable():
        url = url.translate(_DROPPED)
        if _CONTROLS.search(url):
            raise UrlError(Reason.CONTROL_CHARACTERS)
    return url


def normalize_url(url: str) -> str:
    """Return an absolute URL in ASCII, without its fragment, dot segments and default port.

    Raises:
        UrlError: it is malformed, of another scheme, too long, or has credentials.
    """
    if _NORMAL.fullmatch(url) and "/." not in url:
        return url
    try:
        split = urlsplit(_slashes(url))
        port = split.port
    except ValueError:
        raise UrlError(Reason.MALFORMED_URL) from None
    if split.scheme not in DEFAULT_PORTS:
        raise UrlError(Reason.OTHER_SCHEME)
    if "@" in split.netloc:
        raise UrlError(Reason.CREDENTIALS)
    host = _normalize_host(split.netloc.rpartition(":")[0] if port is not None else split.netloc)
    netloc = host if port in (None, DEFAULT_PORTS[split.scheme]) else f"{host}:{port}"
    path = _remove_dots(_quote(split.path, _SAFE_IN_PATH) or "/")
    query = f"?{_quote(split.query, _SAFE_IN_QUERY)}" if split.query else ""
    normal = f"{split.scheme}://{netloc}{path}{query}"
    if len(normal) > MAX_URL:
        raise UrlError(Reason.URL_TOO_LONG)
    return normal


def is_svg(url: str) -> bool:
    """Return True for a URL of an SVG drawing, which is text with scripts and no photograph."""
    return url.startswith("data:image/svg") or bool(_SVG.search(url))


def _check_data_uri(uri: str) -> str:
    if is_svg(uri[:32].lower()):
        raise UrlError(Reason.SVG)
    if not MIN_DATA_URI <= len(uri) <= MAX_DATA_URI:
        raise UrlError(Reason.DATA_URI)
    uri = "".join(uri.split())
    if not _DATA_URI.fullmatch(uri):
        raise UrlError(Reason.DATA_URI)
    return uri


def _slashes(url: str) -> str:
    """Return a URL with the backslashes of its path as slashes, as browsers read them."""
    if "\\" not in url:
        return url
    end = min((i for i in (url.find("?"), url.find("#")) if i >= 0), default=len(url))
    return url[:end].replace("\\", "/") + url[end:]


def _normalize_host(host: str) -> str:
    host = host.removesuffix(":").lower()  # an empty port
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise UrlError(Reason.MALFORMED_URL) from None
    if not (_HOST.fullmatch(host) or _IPV6.fullmatch(host)):
        raise UrlError(Reason.MALFORMED_URL)
    return host


def _quote(text: str, safe: str) -> str:
    """Return text with characters outside `safe` as percent-encoded UTF-8.

    Raises:
        UrlError: it has surrogates, or characters that its page's encoding does not have.
    """
    if "\ufffd" in text:
        raise UrlError(Reason.WRONG_ENCODING)
    try:
        text = quote(text, safe)
    except UnicodeError:
        raise UrlError(Reason.MALFORMED_URL) from None
    return re.sub("%(?![0-9A-Fa-f]{2})", "%25", text)


def _remove_dots(path: str) -> str:
    """Return a path without the segments "." and ".."."""
    if "/." not in path:
        return path
    segments: list[str] = []
    names = path.split("/")[1:]
    for name in names:
        if name == "..":
            del segments[-1:]
        elif name != ".":
            segments.append(name)
    if names[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)
