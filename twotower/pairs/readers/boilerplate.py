"""Rules for images that decorate or measure a page: logos, icons, sprites, spacers, pixels."""

from __future__ import annotations

import re

from twotower.pairs.candidates import Reason
from twotower.pairs.readers.urls import is_svg

SMALL_SIDE = 32  # pixels; the largest usual size of icons, bullets and tracking pixels
# Words between separators in the path of a URL. "pixel" and "badge" are words of products too.
_WORDS = re.compile(
    r"(?:^|[/_.%-])(?:logos?|logotype|favicons?|icons?|ico|sprites?|spacer|spacers|blank|1x1|"
    r"1px|pixel\.(?:gif|png)|clear\.gif|transparent|placeholders?|avatars?|gravatar|emojis?|"
    r"emoticons?|smil(?:ey|ies|eys)|btn|buttons?|bullets?|arrows?|loading|loader|spinner|"
    r"ajax-loader|captcha|tracking|beacon|noimage|no-image|no_image|nophoto|default-image|lazyload)"
    r"(?:$|[/_.%\d-]|@\dx)",
    re.IGNORECASE,
)
# Hosts of advertising, counters and default avatars, with all of their subdomains.
_HOSTS = frozenset(
    "doubleclick.net google-analytics.com googletagmanager.com googlesyndication.com "
    "googleadservices.com scorecardresearch.com quantserve.com gravatar.com statcounter.com "
    "hitwebcounter.com adnxs.com adsrvr.org amazon-adsystem.com matomo.cloud yadro.ru".split()
)
_PIXELS = re.compile(
    r"https?://(?:www\.facebook\.com/tr|pixel\.wp\.com/|stats\.wordpress\.com/|mc\.yandex\.ru/|"
    r"bat\.bing\.com/|px\.ads\.linkedin\.com/|analytics\.twitter\.com/)"
)


def image_fault(url: str, width: int, height: int) -> Reason | None:
    """Return the reason to leave out an image, or None to keep it.

    Args:
        url: absolute.
        width, height: in pixels as the page declares them, or 0 if it does not.
    """
    if is_svg(url):
        return Reason.SVG
    if 0 < width <= SMALL_SIDE or 0 < height <= SMALL_SIDE:
        return Reason.SMALL
    if url.startswith("data:"):
        return None
    path_start = url.find("/", 8)
    path = url[path_start:].partition("?")[0]
    domain = ".".join(url[:path_start].rpartition("/")[2].split(".")[-2:])
    if domain in _HOSTS or _PIXELS.match(url) or _WORDS.search(path) or path.endswith(".ico"):
        return Reason.BOILERPLATE_URL
    return None
