"""A library for assistants: tools of the Model Context Protocol that search it and answer."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult, ImageContent, ToolAnnotations
from pydantic import Field

from twotower.pages.numbered_sheet import CELL, draw_numbered_sheet
from twotower.serve import mcp_answers as answers
from twotower.serve.errors import RequestError
from twotower.serve.library_queries import (
    SearchRequest,
    display_path,
    find_record,
    records_of,
    search_page,
    similar_page,
)
from twotower.serve.library_questions import ask_library, ask_picture
from twotower.serve.mcp_writes import add_writing_tools
from twotower.version import __version__

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord
    from twotower.search.hits import Hit
    from twotower.serve.library import LibraryService
    from twotower.serve.library_queries import SearchPage
    from twotower.serve.server import Server

MAX_SIDE = 1568  # pixels of a picture; models reduce larger ones
MAX_PICTURES = 50  # of one answer
MAX_SHEET = 30  # pictures on one contact sheet
EVIDENCE_PICTURES = 10
READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
INSTRUCTIONS = """\
Tools to search a folder of photos by what they show. Answers name pictures by id and path.

A query is plain words ("a red car at night"); `+` adds something that must be there too, `-`
something that must not, and filters are after:2021, before:2023-06, camera:NAME, folder:NAME,
near:LATITUDE,LONGITUDE,20km, orientation:portrait, type:video. Add a filter only if the person
asked for it. Probabilities are calibrated: below the cut-off a picture is no match, so say when
nothing matches instead of passing off the nearest picture as one. Look at pictures (`picture`,
`contact_sheet`) before you describe them."""

Id = Annotated[int, Field(ge=0, description="The id of a picture, from another answer.")]
Top = Annotated[int, Field(ge=1, le=MAX_PICTURES, description="Pictures to list at most.")]
Offset = Annotated[int, Field(ge=0, le=10**9, description="Pictures to leave out at the front.")]
Query = Annotated[str, Field(max_length=2000, description="Words and filters; empty for all.")]


def create_mcp(server: Server) -> MCPServer[Any]:
    """Return the tools for the library of a server; those that write only with `allow_writes`."""
    library = server.library
    assert library is not None  # checked by the callers
    mcp: MCPServer[Any] = MCPServer(
        "twotower",
        title="Photos",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
    )
    tools = _Tools(server, library)
    for function in (
        tools.search,
        tools.similar,
        tools.ask,
        tools.picture,
        tools.contact_sheet,
        tools.tags,
        tools.duplicates,
        tools.library_facts,
    ):
        mcp.add_tool(answers.with_tool_errors(library, function), annotations=READS)
    if server.settings.allow_writes:
        add_writing_tools(mcp, library)
    return mcp


class _Tools:
    """The tools that read; their docstrings are what assistants read."""

    def __init__(self, server: Server, library: LibraryService) -> None:
        self._server, self._library = server, library

    async def search(
        self,
        query: Query,
        top: Top = 10,
        offset: Offset = 0,
        by_date: Annotated[bool, Field(description="The newest first, not the best.")] = False,
    ) -> Annotated[CallToolResult, answers.SearchFindings]:
        """Find photos by what they show, with the probability of each.

        If nothing matches, the answer says so and names the nearest photo.
        """
        request = SearchRequest(query, top, offset, "date" if by_date else "relevance", group=True)
        page = await self._library.searches.run(lambda index: search_page(index, request))
        return await self._answer(page, request)

    async def similar(
        self, id: Id, top: Top = 10, offset: Offset = 0
    ) -> Annotated[CallToolResult, answers.SearchFindings]:
        """Find photos that look like a photo of the library."""
        request = SearchRequest(top=top, offset=offset)
        page = await self._library.searches.run(lambda index: similar_page(index, id, request))
        return await self._answer(page, request)

    async def ask(
        self,
        question: Annotated[str, Field(min_length=1, max_length=1000)],
        id: Annotated[int | None, Field(description="A photo; null for the library.")] = None,
    ) -> Annotated[CallToolResult, answers.AnswerFindings]:
        """Answer a question in English about one photo, or about the library.

        About a photo: yes or no, colours, counts, choices ("is it a cat or a dog?"). About the
        library: "how many of my pictures show a dog?", "when did I last photograph snow?".
        """
        if id is None:
            return await self._ask_library(question)
        answered = await ask_picture(self._library, id, question)
        replies = {reply.answer: reply.probability for reply in answered.replies}
        answer = answered.replies[0] if answered.replies else None
        chance = "" if not answer or answer.probability is None else f" ({answer.probability:.0%})"
        message = f"{answer.answer if answer else 'no answer'}{chance}"
        if not answered.sure:
            message += "; hardly better than a guess"
        findings = answers.AnswerFindings(
            message=message,
            answer=answer.answer if answer else "",
            certain=answered.sure,
            probability=answer.probability if answer else None,
            answers=replies,
            count_low=None,
            count_expected=None,
            count_high=None,
            evidence="; ".join((f"picture {id}, answered by {answered.by}", *answered.notes)),
            pictures=[],
        )
        return answers.to_result(findings, f"{message}\nEvidence: {findings.evidence}")

    async def picture(
        self,
        id: Id,
        max_side: Annotated[int, Field(ge=64, le=MAX_SIDE, description="Pixels.")] = 1024,
    ) -> Annotated[CallToolResult, answers.PictureFacts]:
        """Show a photo as an image, with its path, date, place, camera and keywords."""
        record = await self._library.facts.run(lambda index: find_record(index, id))
        view = await self._library.view(id)
        facts = answers.PictureFacts(
            id=record.id,
            path=display_path(record.path),
            width=record.width,
            height=record.height,
            taken=record.taken,
            camera=record.camera,
            latitude=record.latitude,
            longitude=record.longitude,
            keywords=record.keywords.split("\n") if record.keywords else [],
            size_bytes=record.size,
        )
        text = ", ".join(
            f"{name}: {value}"
            for name, value in facts.model_dump().items()
            if value not in (None, [])
        )
        return answers.to_result(facts, text, _image(_shrink(view, max_side)))

    async def contact_sheet(
        self,
        query: Query,
        top: Annotated[int, Field(ge=1, le=MAX_SHEET)] = 20,
        offset: Offset = 0,
    ) -> Annotated[CallToolResult, answers.SearchFindings]:
        """Show the photos of a search as one image with numbers, and list their ids."""
        request = SearchRequest(query, top, offset, group=True)
        page = await self._library.searches.run(lambda index: search_page(index, request))
        result = await self._answer(page, request)
        ids = [hit.id for hit in page.result.hits if hit.id in page.records]
        if ids:
            sheet = draw_numbered_sheet([await self._thumbnail(number) for number in ids])
            content = io.BytesIO()
            sheet.save(content, "JPEG", quality=80)
            result.content.append(_image(content.getvalue()))
        return result

    async def tags(
        self,
        id: Annotated[int | None, Field(description="A photo; null for the library.")] = None,
        top: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> Annotated[CallToolResult, answers.TagFindings]:
        """List the tags of the library with counts, or those of one photo with probabilities."""
        if id is not None:
            await self._library.facts.run(lambda index: find_record(index, id))
            of_picture = (await self._library.tags.of_picture(id))[:top]
            findings = answers.TagFindings(
                message=f"tags of picture {id}",
                library=[],
                picture=[answers.PictureTagFinding(**vars(tag)) for tag in of_picture],
            )
            lines = [
                f"{tag.tag}: {tag.probability:.0%}{'' if tag.assigned else ' (not assigned)'}"
                for tag in of_picture
            ]
        else:
            counts = (await self._library.tags.counts())[:top]
            findings = answers.TagFindings(
                message=f"{len(counts)} tags",
                library=[answers.TagCountFinding(tag=tag, pictures=n) for tag, n in counts],
                picture=[],
            )
            lines = [f"{tag}: {number} pictures" for tag, number in counts]
        return answers.to_result(findings, "\n".join((findings.message, *lines)))

    async def duplicates(
        self, top: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 20, offset: Offset = 0
    ) -> Annotated[CallToolResult, answers.DuplicateFindings]:
        """List groups of near-duplicate photos; in each, the largest file is the first."""
        groups = await self._library.duplicates()
        page = groups[offset : offset + top]
        hits = [hit for group in page for hit in group]
        records = await self._library.facts.run(lambda index: records_of(index, hits))
        listed = [answers.number_hits(group, records) for group in page]
        message = f"{len(groups)} groups of near-duplicates" if groups else "no near-duplicates"
        findings = answers.DuplicateFindings(message=message, total=len(groups), groups=listed)
        blocks = [
            answers.describe_pictures(f"Group {number}:", group)
            for number, group in enumerate(listed, offset + 1)
        ]
        return answers.to_result(findings, "\n".join((message, *blocks)))

    async def library_facts(self) -> Annotated[CallToolResult, answers.LibraryFindings]:
        """Describe the library: its size, model, cameras, and the state of indexing."""
        library, state = self._library, self._library.indexer.state
        indexing = state.message or state.state
        if library.indexer.is_running:
            indexing = f"{state.stage}: {state.done} of {state.total}"
        findings = answers.LibraryFindings(
            message=f"nothing of {library.name} is indexed yet",
            name=library.name,
            indexed=False,
            pictures=0,
            unreadable=0,
            model=None,
            cameras=[],
            indexing=indexing,
            writable=bool(self._server.settings.allow_writes),
        )
        if await library.is_indexed():
            facts = await library.describe()
            findings = findings.model_copy(
                update={
                    "message": f"{facts.pictures} pictures in {library.name}",
                    "indexed": True,
                    "pictures": facts.pictures,
                    "unreadable": facts.failed,
                    "model": facts.model,
                    "cameras": facts.cameras,
                }
            )
        lines = [f"{name}: {value}" for name, value in findings.model_dump().items()]
        return answers.to_result(findings, "\n".join(lines))

    async def _answer(self, page: SearchPage, request: SearchRequest) -> CallToolResult:
        """Return a page of a search, with the nearest picture if none matches."""
        nearest = None
        if not page.result.matches and page.query.terms:
            nearest = await self._library.searches.run(lambda index: _nearest(index, page, request))
        findings = answers.to_findings(page, request.offset, nearest, str(self._library.root))
        text = answers.describe_pictures(findings.message, findings.pictures)
        return answers.to_result(findings, "\n".join((text, *findings.warnings)))

    async def _ask_library(self, question: str) -> CallToolResult:
        answer, records = await ask_library(self._library, question, EVIDENCE_PICTURES)
        message = answer.answer or "nothing matches"
        findings = answers.AnswerFindings(
            message=message,
            answer=answer.answer,
            certain=bool(answer.matches),
            probability=None,
            answers={},
            count_low=answer.low,
            count_expected=round(answer.expected, 1),
            count_high=answer.high,
            evidence="; ".join(
                (f"{answer.matches} of {answer.total} pictures match", *answer.notes)
            ),
            pictures=answers.number_hits(answer.hits, records),
        )
        text = f"{message}\nEvidence: {findings.evidence}"
        return answers.to_result(findings, answers.describe_pictures(text, findings.pictures))

    async def _thumbnail(self, number: int) -> bytes:
        """Return a thumbnail; empty if the picture can no longer be read."""
        try:
            return await self._library.thumbnail(number, CELL)
        except RequestError:
            return b""


def _nearest(
    index: Index, page: SearchPage, request: SearchRequest
) -> tuple[Hit, PictureRecord] | None:
    """Return the picture that is nearest to a query, however improbable."""
    from twotower.serve.library_queries import run

    result = run(index, page.query, replace(request, top=1, offset=0, all=True))
    records = records_of(index, result.hits)
    return next(((hit, records[hit.id]) for hit in result.hits if hit.id in records), None)


def _shrink(content: bytes, side: int) -> bytes:
    """Return a JPEG of at most that many pixels on each side."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        picture.thumbnail((side, side))
        shrunk = io.BytesIO()
        picture.convert("RGB").save(shrunk, "JPEG", quality=85)
    return shrunk.getvalue()


def _image(content: bytes) -> ImageContent:
    return ImageContent(
        type="image", data=base64.b64encode(content).decode(), mime_type="image/jpeg"
    )
