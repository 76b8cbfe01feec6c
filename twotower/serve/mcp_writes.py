"""MCP tools that write: verdicts on tags, and tags into sidecars; each with dry run and undo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, Field

from twotower.serve import mcp_answers as answers

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

    from twotower.serve.library import LibraryService

ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
CHANGES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
REVERTS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)


class TagVerdict(BaseModel):
    """A verdict on a tag of a photo: true, false, or null to forget an earlier one."""

    id: int = Field(ge=0)
    tag: str
    accepted: bool | None


class VerdictFindings(BaseModel):
    """The number of verdicts that were kept, or in a dry run would be; `undo` reverts them."""

    message: str
    dry_run: bool
    verdicts: int
    undo: str | None


class WriteFindings(BaseModel):
    """Counts of pictures and files; `removed` counts earlier tags of ours."""

    message: str
    dry_run: bool
    pictures: int
    files: int
    removed: int
    unchanged: int
    errors: list[str]


class UndoFindings(BaseModel):
    """The number of verdicts or files that were restored."""

    message: str
    restored: int
    errors: list[str]


def add_writing_tools(mcp: MCPServer[Any], library: LibraryService) -> None:
    """Add the tools that write."""
    tools = _WritingTools(library)
    for function, hints in (
        (tools.apply_verdicts, ADDS),
        (tools.undo_verdicts, REVERTS),
        (tools.write_sidecars, CHANGES),
        (tools.undo_sidecars, REVERTS),
    ):
        mcp.add_tool(answers.with_tool_errors(library, function), annotations=hints)


class _WritingTools:
    """The tools that write; their docstrings are what assistants read."""

    def __init__(self, library: LibraryService) -> None:
        self._library = library

    async def apply_verdicts(
        self,
        verdicts: Annotated[list[TagVerdict], Field(min_length=1, max_length=1000)],
        dry_run: Annotated[bool, Field(description="Only check them.")] = True,
    ) -> Annotated[CallToolResult, VerdictFindings]:
        """Keep a person's verdicts on tags of photos; the tags learn from them at once.

        Pass only verdicts that the person gave. With dry_run nothing is kept.
        """
        rows = [(verdict.id, verdict.tag, verdict.accepted) for verdict in verdicts]
        if dry_run:
            await self._library.tags.check(rows)
            findings = VerdictFindings(
                message=f"{len(rows)} verdicts can be kept; nothing was changed",
                dry_run=True,
                verdicts=len(rows),
                undo=None,
            )
        else:
            token = await self._library.tags.judge(rows)
            findings = VerdictFindings(
                message=f"kept {len(rows)} verdicts; undo_verdicts with {token} reverts them",
                dry_run=False,
                verdicts=len(rows),
                undo=token,
            )
        return answers.to_result(findings, findings.message)

    async def undo_verdicts(
        self, undo: Annotated[str, Field(description="From apply_verdicts.")]
    ) -> Annotated[CallToolResult, UndoFindings]:
        """Undo verdicts that apply_verdicts kept."""
        restored = await self._library.tags.undo(undo)
        findings = UndoFindings(message=f"undid {restored} verdicts", restored=restored, errors=[])
        return answers.to_result(findings, findings.message)

    async def write_sidecars(
        self, dry_run: Annotated[bool, Field(description="Only count.")] = True
    ) -> Annotated[CallToolResult, WriteFindings]:
        """Write the assigned tags into XMP sidecars beside the photos, which stay as they are.

        With dry_run nothing is written.
        """
        report = await self._library.tags.write(dry_run=dry_run)
        verb = "would be tagged; nothing was written" if dry_run else "tagged"
        findings = WriteFindings(
            message=f"{report.pictures} pictures {verb}", dry_run=dry_run, **vars(report)
        )
        text = findings.message if dry_run else f"{findings.message}; undo_sidecars reverts it"
        return answers.to_result(findings, "\n".join((text, *findings.errors)))

    async def undo_sidecars(self) -> Annotated[CallToolResult, UndoFindings]:
        """Undo the last writing of sidecars."""
        report = await self._library.tags.undo_write()
        restored = report.restored + report.untagged
        findings = UndoFindings(
            message=f"restored {restored} files", restored=restored, errors=list(report.errors)
        )
        return answers.to_result(findings, "\n".join((findings.message, *findings.errors)))
