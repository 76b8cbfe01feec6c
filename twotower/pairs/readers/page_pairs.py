"""The pairs of one page: its images by address, checked, each with its texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from twotower.pairs.candidates import Candidate, Counts, Reason
from twotower.pairs.readers.boilerplate import image_fault
from twotower.pairs.readers.texts import caption_fault, clean_caption
from twotower.pairs.readers.urls import BaseUrl, UrlError


@dataclass
class PageImage:
    """An image of a page.

    Attributes:
        url: absolute.
        texts: pairs of the caption's source and the text, not yet cleaned.
    """

    url: str
    width: int = 0
    height: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)

    def add_text(self, caption_source: str, text: str | None) -> None:
        """Add a text unless it is empty."""
        if text:
            self.texts.append((caption_source, text))


class PagePairs:
    """Collects the images of a page, and yields its candidates."""

    def __init__(self, base: BaseUrl, page_url: str, language: str, source: str, counts: Counts):
        self.base = base
        self._page_url, self._language, self._source = page_url, language, source
        self._counts = counts
        self._images: list[PageImage] = []

    def add_image(self, reference: str, width: int = 0, height: int = 0) -> PageImage | None:
        """Add an image by its address in the page; None, counted, if it cannot be used.

        Args:
            width, height: pixels as the page declares them, or 0.
        """
        try:
            url = self.base.join(reference)
        except UrlError as error:
            self._counts[error.reason] += 1
            return None
        if fault := image_fault(url, width, height):
            self._counts[fault] += 1
            return None
        image = PageImage(url, width, height)
        self._images.append(image)
        return image

    def count(self, reason: Reason) -> None:
        """Count something that is left out."""
        self._counts[reason] += 1

    def candidates(self) -> Iterator[Candidate]:
        """Yield a row for each distinct pair of an address and a text."""
        pairs: set[tuple[str, str]] = set()
        for image in self._images:
            captions = [(origin, clean_caption(text)) for origin, text in image.texts]
            captions = [(origin, caption) for origin, caption in captions if caption]
            if not captions:
                self._counts[Reason.NO_TEXT] += 1
            for origin, caption in captions:
                if (image.url, caption) in pairs:
                    continue
                pairs.add((image.url, caption))
                if fault := caption_fault(caption):
                    self._counts[fault] += 1
                    continue
                yield Candidate(
                    image.url,
                    caption,
                    origin,
                    self._page_url,
                    self._language,
                    image.width,
                    image.height,
                    self._source,
                )
