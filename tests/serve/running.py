"""A server in a process of its own, as users start it."""

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def running_server(
    options: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator[str]:
    """Start `twotower serve` on a free port; yield its address once it is ready."""
    command = [sys.executable, "-m", "twotower", "serve", "--port", "0", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        match = re.search(r"http://\S+", line)
        assert match, f"{line}{process.stderr.read()}"
        url = match[0].rstrip("/")
        wait_until_ready(url)
        yield url
    finally:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_ready(url: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=10).close()
            return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.2)
