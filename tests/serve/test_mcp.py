"""The tools for assistants, through the SDK's client and the inspector's command line."""

import asyncio
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

pytest.importorskip("mcp")

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent

from tests.serve.plain_http import call
from tests.serve.running import running_server

Result = TypeVar("Result")
READING = {
    "search",
    "similar",
    "ask",
    "picture",
    "contact_sheet",
    "tags",
    "duplicates",
    "library_facts",
}
WRITING = {"apply_verdicts", "undo_verdicts", "write_sidecars", "undo_sidecars"}


def on_stdio(folder: Path, use: Callable[[Client], Awaitable[Result]], *options: str) -> Result:
    """Run `twotower mcp` as an assistant does, and use it."""

    async def run() -> Result:
        command = StdioServerParameters(
            command=sys.executable,
            args=["-m", "twotower", "mcp", str(folder), *options],
            env=dict(os.environ),
        )
        async with Client(command) as client:
            return await use(client)

    return asyncio.run(run())


def over_http(url: str, use: Callable[[Client], Awaitable[Result]], **headers: str) -> Result:
    async def run() -> Result:
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120) as http_client,
            Client(streamable_http_client(f"{url}/mcp", http_client=http_client)) as client,
        ):
            return await use(client)

    return asyncio.run(run())


def text_of(result: CallToolResult) -> str:
    (text,) = [content.text for content in result.content if isinstance(content, TextContent)]
    return text


def images_of(result: CallToolResult) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(content.data)))
        for content in result.content
        if isinstance(content, ImageContent)
    ]


def structured(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return result.structured_content


def call_tool(url: str, name: str, **arguments: Any) -> CallToolResult:
    async def use(client: Client) -> CallToolResult:
        return await client.call_tool(name, arguments)

    return over_http(url, use)


async def list_tools(client: Client) -> dict[str, Any]:
    return {tool.name: tool for tool in (await client.list_tools()).tools}


def test_tools_say_that_they_only_read(library_url: str) -> None:
    tools = over_http(library_url, list_tools)
    assert tools.keys() == READING
    for tool in tools.values():
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        assert tool.annotations.idempotent_hint is True
        assert tool.annotations.open_world_hint is False
        assert tool.output_schema["type"] == "object"
        assert tool.description


def test_a_search_names_its_evidence(library_url: str) -> None:
    result = call_tool(library_url, "search", query="an elephant")
    answer = structured(result)
    best = answer["pictures"][0]
    assert best["path"] == "animals/elephant.png"
    assert best["match"] is True
    assert 0.4 < best["probability"] <= 1
    assert f"animals/elephant.png (id {best['id']}), probability" in text_of(result)


def test_a_search_says_when_nothing_matches(library_url: str) -> None:
    result = call_tool(library_url, "search", query="a purple submarine with yellow dots")
    answer = structured(result)
    assert (answer["matches"], answer["pictures"]) == (0, [])
    nearest = answer["nearest"]
    assert nearest["probability"] < answer["cutoff"]
    assert text_of(result).startswith("no picture matches")
    assert f"the nearest is {nearest['path']} (id {nearest['id']}) with probability" in text_of(
        result
    )


def test_similar_and_duplicates_find_the_copy(library_url: str) -> None:
    (cat,) = structured(call_tool(library_url, "search", query="cat folder:animals"))["pictures"]
    alike = structured(call_tool(library_url, "similar", id=cat["id"]))["pictures"]
    assert [hit["path"] for hit in alike] == ["copy of the cat.jpg"]
    (group,) = structured(call_tool(library_url, "duplicates"))["groups"]
    assert {hit["id"] for hit in group} == {cat["id"], alike[0]["id"]}


def test_pictures_are_images_of_bounded_size(library_url: str) -> None:
    (cat,) = structured(call_tool(library_url, "search", query="cat folder:animals"))["pictures"]
    result = call_tool(library_url, "picture", id=cat["id"], max_side=320)
    (image,) = images_of(result)
    assert image.size == (320, 320)
    assert structured(result)["path"] == "animals/cat.jpg"
    too_large = call_tool(library_url, "picture", id=cat["id"], max_side=10_000)
    assert too_large.is_error


def test_contact_sheets_number_the_hits(library_url: str) -> None:
    result = call_tool(library_url, "contact_sheet", query="", top=7)
    assert [hit["number"] for hit in structured(result)["pictures"]] == list(range(1, 8))
    (sheet,) = images_of(result)
    assert sheet.width > sheet.height > 240  # two rows of five


def test_questions_are_answered_with_evidence(library_url: str) -> None:
    (cat,) = structured(call_tool(library_url, "search", query="cat folder:animals"))["pictures"]
    reply = structured(
        call_tool(library_url, "ask", question="is it a cat or a dog?", id=cat["id"])
    )
    assert (reply["answer"], reply["certain"]) == ("cat", True)
    assert reply["probability"] > 0.5
    question = "how many of my pictures show an elephant?"
    total = structured(call_tool(library_url, "ask", question=question))
    assert total["answer"] == "1 of 51"
    assert total["count_low"] <= total["count_expected"] <= total["count_high"]
    assert total["pictures"][0]["path"] == "animals/elephant.png"


def test_facts_and_tags_are_listed(library_url: str) -> None:
    facts = structured(call_tool(library_url, "library_facts"))
    assert (facts["pictures"], facts["indexed"], facts["writable"]) == (51, True, False)
    counts = structured(call_tool(library_url, "tags"))["library"]
    assert "animal" in {row["tag"] for row in counts}


def test_errors_tell_what_to_correct(library_url: str) -> None:
    for name, arguments, reason in (
        ("picture", {"id": 10**6}, "no picture 1000000"),
        ("search", {"query": "after:never"}, "not a date"),
        ("search", {"query": "cat", "top": 0}, "greater than or equal to 1"),
        ("ask", {"question": "who are you?"}, "no question about a library"),
    ):
        result = call_tool(library_url, name, **arguments)
        assert result.is_error
        assert reason in text_of(result)


def test_http_needs_the_key(photos: Path) -> None:
    with running_server([str(photos)], {"TWOTOWER_SERVE_API_KEY": "key-of-the-test"}) as url:
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        headers = {"Accept": "application/json, text/event-stream"}
        assert call(url, "/mcp", request, headers=headers).status == 401
        tools = over_http(url, list_tools, Authorization="Bearer key-of-the-test")
        assert tools.keys() == READING


def test_stdio_has_nothing_but_the_protocol_on_stdout(photos: Path) -> None:
    command = [sys.executable, "-m", "twotower", "mcp", str(photos)]
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert answer["result"]["serverInfo"]["name"] == "twotower"
    assert "instructions" in answer["result"]
    output, _ = process.communicate(timeout=120)  # closes stdin, which ends the server
    assert [json.loads(line) for line in output.splitlines()] == []
    assert process.returncode == 0


def test_tools_that_write_have_a_dry_run_and_an_undo(photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))

    async def use(client: Client) -> None:
        tools = await list_tools(client)
        assert tools.keys() == READING | WRITING
        assert tools["apply_verdicts"].annotations.read_only_hint is False
        assert tools["apply_verdicts"].annotations.destructive_hint is False
        assert tools["write_sidecars"].annotations.destructive_hint is True
        assert tools["undo_sidecars"].annotations.idempotent_hint is False
        hits = structured(await client.call_tool("search", {"query": "cat folder:animals"}))
        number = hits["pictures"][0]["id"]
        verdicts = [{"id": number, "tag": "animal|cat", "accepted": False}]
        dry = structured(await client.call_tool("apply_verdicts", {"verdicts": verdicts}))
        assert (dry["dry_run"], dry["undo"]) == (True, None)
        arguments = {"verdicts": verdicts, "dry_run": False}
        kept = structured(await client.call_tool("apply_verdicts", arguments))
        tags = structured(await client.call_tool("tags", {"id": number}))["picture"]
        assert {tag["tag"]: tag["verdict"] for tag in tags if tag["verdict"] is not None} == {
            "animal|cat": False
        }
        undone = structured(await client.call_tool("undo_verdicts", {"undo": kept["undo"]}))
        assert undone["restored"] == 1
        planned = structured(await client.call_tool("write_sidecars", {}))
        assert list(folder.rglob("*.xmp")) == []
        written = structured(await client.call_tool("write_sidecars", {"dry_run": False}))
        assert len(list(folder.rglob("*.xmp"))) == written["files"] == planned["files"] > 20
        structured(await client.call_tool("undo_sidecars", {}))
        assert list(folder.rglob("*.xmp")) == []

    on_stdio(folder, use, "--allow-writes")


@pytest.mark.clients
def test_the_inspector_calls_tools_on_stdio_and_http(photos: Path, library_url: str) -> None:
    if shutil.which("npx") is None and not os.environ.get("CI"):
        pytest.skip("npx is not installed")
    stdio = [sys.executable, "-m", "twotower", "mcp", str(photos)]
    for target in (stdio, [f"{library_url}/mcp", "--transport", "http"]):
        tools = inspect(*target, "--method", "tools/list")["tools"]
        assert {tool["name"] for tool in tools} == READING
        arguments = ["--tool-name", "search", "--tool-arg", "query=an elephant"]
        answer = inspect(*target, "--method", "tools/call", *arguments)
        assert answer["structuredContent"]["pictures"][0]["path"] == "animals/elephant.png"


def inspect(*arguments: str) -> dict[str, Any]:
    """Run the inspector's command line."""
    command = ["npx", "--yes", "@modelcontextprotocol/inspector", "--cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
