"""`Library`: a folder of pictures that is indexed, searched, tagged and asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twotower.index.index import Index
from twotower.progress import ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.asking.library_answers import LibraryAnswer
    from twotower.asking.library_questions import LibraryQuestion
    from twotower.encode.encoder import Encoder
    from twotower.index.catalog import Catalog
    from twotower.index.indexing import IndexReport
    from twotower.index.vectors import Vectors
    from twotower.metadata.journal import UndoReport
    from twotower.metadata.sidecars import WriteReport
    from twotower.search.hits import Hit, SearchResult
    from twotower.search.query import Query
    from twotower.search.search import Sort
    from twotower.tagging.corrections import ImportReport
    from twotower.tagging.tag import TagResult
    from twotower.tagging.vocabulary import Vocabulary


class Library:
    """A folder of pictures that is searched by what they show.

        library = Library("photos")
        library.index()
        for hit in library.search("a red car"):
            print(hit.path, hit.probability)

    This class is a facade: an `Index` holds catalog, vectors and encoder, and functions of the
    rooms `search`, `tagging` and `asking` do the work.
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

        Arguments and errors are those of `twotower.index.index.Index`.
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
    def exists(self) -> bool:
        """True after the first call of `index` has begun."""
        return self.opened.exists

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

    @property
    def better_model(self) -> str | None:
        """The model that `refine` changes to; None if that in use is to stay."""
        return self.opened.better_model

    def index(
        self,
        progress: ReportProgress = ignore_progress,
        *,
        approximate: bool = False,
        verify_content: bool = False,
        import_from: str | Path | None = None,
        refine: bool = True,
    ) -> IndexReport:
        """Bring the library up to date with the disk, then refine it.

        Arguments and errors are those of `twotower.index.index.Index.update`.

        Args:
            refine: go on with `refine`; a large new library can be searched before.
        """
        report = self.opened.update(
            progress,
            approximate=approximate,
            verify_content=verify_content,
            import_from=import_from,
        )
        if refine:
            self.opened.refine(progress, approximate=approximate)
        return report

    def refine(
        self, progress: ReportProgress = ignore_progress, *, approximate: bool = False
    ) -> IndexReport | None:
        """Change to a better model; see `twotower.index.index.Index.refine`."""
        return self.opened.refine(progress, approximate=approximate)

    def parse(self, query: str) -> Query:
        """Parse a query without running it, also before the first call of `index`.

        Raises:
            QueryError: the query makes no sense.
        """
        from twotower.search.search import parse

        return parse(self.opened, query)

    def search(
        self,
        query: str | Query,
        *,
        top: int | None = 20,
        offset: int = 0,
        all: bool = False,
        sort: Sort = "relevance",
        group: bool = True,
        folder: Path | None = None,
    ) -> SearchResult:
        """Find the pictures that match words, pictures and filters.

        Arguments and errors are those of `twotower.search.search.search`.
        """
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

    def find_picture(self, picture: str | Path) -> Path:
        """Return the path of a picture, from the working directory or in the library.

        Raises:
            QueryError: the file does not exist.
        """
        from twotower.search.search import find_picture

        return find_picture(self.opened, picture)

    def similar(
        self,
        picture: str | Path,
        *,
        top: int = 20,
        offset: int = 0,
        all: bool = False,
        group: bool = False,
        folder: Path | None = None,
    ) -> SearchResult:
        """Find pictures that look like `picture`, a file of the library or any other.

        Arguments and errors are those of `twotower.search.search.similar`.
        """
        from twotower.search.search import similar

        return similar(
            self.opened, picture, top=top, offset=offset, all=all, group=group, folder=folder
        )

    def duplicates(
        self, folder: Path | None = None, report: ReportProgress = ignore_progress
    ) -> list[list[Hit]]:
        """Return groups of near-duplicates, each with the largest file first.

        Arguments and errors are those of `twotower.search.duplicates.duplicates`.
        """
        from twotower.search.duplicates import duplicates

        return duplicates(self.opened, folder, report)

    def tag(
        self,
        vocabulary: Vocabulary,
        *,
        folder: Path | None = None,
        precision: float = 0.8,
        report: ReportProgress = ignore_progress,
    ) -> TagResult:
        """Decide the tags of pictures; nothing is written. See `twotower.tagging.tag.tag`."""
        from twotower.tagging.tag import tag

        return tag(self.opened, vocabulary, folder=folder, precision=precision, report=report)

    def write_tags(
        self, result: TagResult, *, embed: bool = False, report: ReportProgress = ignore_progress
    ) -> WriteReport:
        """Write tags into sidecars; see `twotower.tagging.tag.write_sidecars`."""
        from twotower.tagging.tag import write_sidecars

        return write_sidecars(self.opened, result, embed=embed, report=report)

    def undo_tags(self) -> UndoReport:
        """Undo the last writing of tags; see `twotower.metadata.sidecars.undo`."""
        from twotower.metadata.sidecars import undo

        return undo(self.location)

    def import_corrections(self, vocabulary: Vocabulary, path: Path) -> ImportReport:
        """Keep corrections; see `twotower.tagging.corrections.import_corrections`."""
        from twotower.tagging.corrections import import_corrections

        return import_corrections(self.opened, vocabulary, path)

    def ask(
        self, question: str | LibraryQuestion, *, top: int = 5, folder: Path | None = None
    ) -> LibraryAnswer:
        """Answer a question; see `twotower.asking.library_answers.ask_library`."""
        from twotower.asking.library_answers import ask_library

        return ask_library(self.opened, question, top, folder)

    def close(self) -> None:
        """Close the files; they are opened again when they are needed."""
        self.opened.close()
