"""`Library`: a folder of pictures that is indexed, searched, tagged and asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from twotower.index.index import Index
from twotower.progress import ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
    from twotower.index.catalog import Catalog
    from twotower.index.indexing import IndexReport
    from twotower.index.vectors import Vectors
    from twotower.search.hits import Hit, SearchResult


class Library:
    """The pictures of a folder, by what they show.

    A facade: `index.Index` holds the state, and the rooms `search`, `tagging` and `asking` do the
    work.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        model: str | Path | None = None,
        location: str | Path | None = None,
        vectors: str | None = None,
        engine: str = "onnxruntime",
    ) -> None:
        """Open the library of `root`; nothing is written before `index`.

        Args, errors: as for `twotower.index.index.Index`.
        """
        self.opened = Index(root, model=model, location=location, vectors=vectors, engine=engine)

    @property
    def root(self) -> Path:
        """The folder of pictures."""
        return self.opened.root

    @property
    def location(self) -> Path:
        """The folder with the catalog and the vectors."""
        return self.opened.location

    @property
    def catalog(self) -> Catalog:
        """The facts about each picture."""
        return self.opened.catalog

    @property
    def vectors(self) -> Vectors:
        """The vectors of the model in use."""
        return self.opened.vectors

    @property
    def model(self) -> Encoder:
        """The encoder of the model in use."""
        return self.opened.encoder

    def index(
        self, report: ReportProgress = ignore_progress, *, approximate: bool = False
    ) -> IndexReport:
        """Bring the library up to date with the disk; see `twotower.index.index.Index.update`."""
        return self.opened.update(report, approximate=approximate)

    def search(
        self,
        query: str,
        *,
        top: int = 20,
        offset: int = 0,
        all: bool = False,
        sort: Literal["relevance", "date"] = "relevance",
        group: bool = True,
        folder: Path | None = None,
    ) -> SearchResult:
        """Find pictures by words, pictures and filters; see `twotower.search.search.search`."""
        from twotower.search.search import search

        return search(
            self.opened,
            query,
            top=top,
            offset=offset,
            all=all,
            sort=sort,
            group=group,
            folder=folder,
        )

    def similar(
        self,
        picture: str | Path,
        *,
        top: int = 20,
        offset: int = 0,
        all: bool = False,
        folder: Path | None = None,
    ) -> SearchResult:
        """Find pictures that look like one; see `twotower.search.search.similar`."""
        from twotower.search.search import similar

        return similar(self.opened, picture, top=top, offset=offset, all=all, folder=folder)

    def duplicates(self, folder: Path | None = None) -> list[list[Hit]]:
        """Find groups of copies; see `twotower.search.duplicates.duplicates`."""
        from twotower.search.duplicates import duplicates

        return duplicates(self.opened, folder)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        self.opened.close()
