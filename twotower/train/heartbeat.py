"""Detect a dead rank: each rank sends heartbeats to torchrun's store and watches the next one.

A rank that waits in a collective for a dead one gets no error, or "connection closed". A missing
heartbeat is reported to all ranks. A rank that still waits in a collective some seconds later is
ended, since the collective cannot end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

BEAT = 1.0  # seconds
SILENT = 30.0  # seconds without a heartbeat after which a rank counts as dead
FINISHED = "finished"
GRACE = 5.0  # seconds in which a rank can end by itself


class Heartbeat(threading.Thread):
    """Send this rank's heartbeat and watch the next rank, until `stop` or `leave`."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.rank, self.watched = rank, (rank + 1) % world_size
        self._stopped, self._failed = threading.Event(), threading.Event()
        self._failure = ""
        # a connection of its own, since the process group's may be busy waiting
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        timeout = timedelta(seconds=SILENT)
        store = TCPStore(address, port, is_master=False, timeout=timeout)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"heartbeat-{attempt}", store)
        self._store.set(f"process-{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        self.start()

    def run(self) -> None:
        """Send and watch."""
        previous, since, count = "", time.monotonic(), 0
        while not self._stopped.wait(BEAT):
            try:
                count += 1
                self._store.set(f"beat-{self.rank}", str(count))
                beat = self._read(f"beat-{self.watched}")
                if beat != previous or beat == FINISHED:
                    previous, since = beat, time.monotonic()
                if time.monotonic() - since > SILENT:
                    self._report_silence()
                self._failure = self._read("failure")
            except (RuntimeError, OSError) as error:  # the machine of the store is gone
                self._failure = f"torchrun's store cannot be reached ({error})"
            if self._failure:
                self._failed.set()
                if not self._stopped.wait(GRACE):
                    self._end_process()
                return

    def _report_silence(self) -> None:
        process = self._read(f"process-{self.watched}")
        self.report_failure(
            f"rank {self.watched} ({process}) died or hangs: no heartbeat for {SILENT} s"
        )

    def _end_process(self) -> None:
        """End the process, whose main thread waits in a collective that cannot end."""
        print(f"twotower: rank {self.rank} ends: {self._failure}", file=sys.stderr)  # noqa: T201
        sys.stderr.flush()
        os._exit(1)

    def report_failure(self, failure: str) -> None:
        """Report to all ranks why the run ends; only the first report counts."""
        with contextlib.suppress(RuntimeError):  # the store itself may be gone
            self._store.compare_set("failure", "", failure)

    def wait_for_failure(self) -> str:
        """Return why another rank ended, once that is known; empty if none did."""
        self._failed.wait(SILENT + GRACE)
        return self._failure

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join()

    def leave(self) -> None:
        """End the thread of a rank that has finished, so that it is not reported as dead."""
        self.stop()
        self._store.set(f"beat-{self.rank}", FINISHED)

    def _read(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""
