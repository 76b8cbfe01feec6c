"""Addresses that may be contacted: well-formed web URLs, and public IP addresses."""

from __future__ import annotations

import functools
import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

MAX_URL_LENGTH = 8192  # characters; servers refuse longer ones (RFC 9110 asks for at least 8000)

_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTROL = re.compile("[\x00-\x20\x7f-\x9f\ud800-\udfff\\\\]")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052


class WebUrl(NamedTuple):
    """A URL that may be requested.

    Attributes:
        text: in its canonical form: host in lower case, without default port and fragment.
        scheme: "http" or "https".
        host: the name or IP address, in ASCII, an IPv6 address without brackets.
        authority: host and port, without the default port.
        target: path and query, as robots.txt compares them.
    """

    text: str
    scheme: str
    host: str
    authority: str
    target: str

    @property
    def origin(self) -> str:
        """The scheme and authority, which share a robots.txt."""
        return f"{self.scheme}://{self.authority}"


@functools.lru_cache(maxsize=4096)  # each URL is parsed at several steps
def parse_url(text: str) -> WebUrl | None:
    """Return an http or https URL in its canonical form, or None if it must not be requested.

    Refused are other schemes, credentials, control characters, spaces, backslashes, malformed hosts
    and ports, and more than `MAX_URL_LENGTH` characters.
    """
    text = text.strip(" \t\r\n")
    if len(text) > MAX_URL_LENGTH or _CONTROL.search(text):
        return None
    try:
        split = urlsplit(text)
        scheme, port = split.scheme.lower(), split.port
        host = _ascii_host(split.hostname or "")
    except (ValueError, UnicodeError):
        return None
    if scheme not in _DEFAULT_PORTS or not host or "@" in split.netloc or port == 0:
        return None
    authority = f"[{host}]" if ":" in host else host
    if port not in (None, _DEFAULT_PORTS[scheme]):
        authority += f":{port}"
    path = split.path or "/"
    canonical = urlunsplit((scheme, authority, path, split.query, ""))
    target = f"{path}?{split.query}" if split.query else path
    return WebUrl(canonical, scheme, host, authority, target)


def is_public_address(ip: str | IPv4Address | IPv6Address) -> bool:
    """Return True for a unicast address of the public internet.

    Private, loopback, link-local, shared, multicast and reserved addresses are not, nor are IPv6
    addresses that embed such an IPv4 address (mapped, 6to4, Teredo, NAT64), nor text that is no
    address.
    """
    try:
        address = ip_address(ip.partition("%")[0]) if isinstance(ip, str) else ip
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        embedded = _embedded_addresses(address)
        if embedded:
            return all(map(is_public_address, embedded))
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _ascii_host(host: str) -> str:
    """Return a host in lower case and ASCII. Raises `ValueError` for a malformed one."""
    if ":" in host:
        return str(IPv6Address(host))
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    host = host.lower()
    if len(host) > 253 or not _HOST.fullmatch(host):  # RFC 1035
        raise ValueError(host)
    return host


def _embedded_addresses(address: IPv6Address) -> list[IPv4Address]:
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
