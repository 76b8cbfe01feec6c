"""Which of the ranks died: each tells the next one that it lives, through torchrun's own store.

A rank that waits in a collective for one that is gone learns nothing, or "connection closed". So
each beats, each watches one other, and who falls silent is named for all to read. A rank that is
told so while it waits is ended, as nothing else would end it.
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
SILENT = 30.0  # seconds without a beat, after which a rank counts as dead
LEFT = "left"
GRACE = 5.0  # seconds that a rank is given to notice for itself and end in order


class Heartbeat(threading.Thread):
    """Beats for this rank, and watches the next, until `stop` or `leave`."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.rank, self.watched = rank, (rank + 1) % world_size
        self._over, self._dead = threading.Event(), threading.Event()
        self._why = ""
        # a connection of its own: the process group's may be busy waiting
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        silent = timedelta(seconds=SILENT)
        store = TCPStore(address, port, is_master=False, timeout=silent)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"heartbeat-{attempt}", store)
        self._store.set(f"place-{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        self.start()

    def run(self) -> None:
        """Beat and watch."""
        last, since, count = "", time.monotonic(), 0
        while not self._over.wait(BEAT):
            try:
                count += 1
                self._store.set(f"beat-{self.rank}", str(count))
                beat = self._read(f"beat-{self.watched}")
                if beat != last or beat == LEFT:
                    last, since = beat, time.monotonic()
                if time.monotonic() - since > SILENT:
                    place = self._read(f"place-{self.watched}")
                    self.tell(f"rank {self.watched} ({place}) died or hangs: silent for {SILENT} s")
                self._why = self._read("dead")
            except (RuntimeError, OSError) as error:  # the store's machine itself is gone
                self._why = f"torchrun's store cannot be reached ({error})"
            if self._why:
                self._dead.set()
                if not self._over.wait(GRACE):
                    print(f"twotower: rank {self.rank} ends: {self._why}", file=sys.stderr)  # noqa: T201
                    sys.stderr.flush()
                    os._exit(1)  # the main thread waits in a collective that cannot end
                return

    def tell(self, why: str) -> None:
        """Let all ranks know why the run is over; the first reason stands."""
        with contextlib.suppress(RuntimeError):  # the store may be what is gone
            self._store.compare_set("dead", "", why)

    def why(self) -> str:
        """Why another rank is gone; waits until that is known. Empty where none is."""
        self._dead.wait(SILENT + GRACE)
        return self._why

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join()

    def leave(self) -> None:
        """End as a rank that is done and shall not be missed."""
        self.stop()
        self._store.set(f"beat-{self.rank}", LEFT)

    def _read(self, key: str) -> str:
        return self._store.get(key).decode() if self._store.check([key]) else ""
