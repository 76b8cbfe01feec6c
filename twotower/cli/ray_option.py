"""The option `--ray` of the commands that can run on a cluster."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twotower.pairs.cluster import Cluster


def add_ray_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on this Ray cluster, such as auto or HOST:6379; local starts one here",
    )


@contextlib.contextmanager
def open_cluster(arguments: argparse.Namespace) -> Iterator[Cluster | None]:
    """Connect to the cluster of `--ray` while the block runs."""
    if arguments.ray is None:
        yield None
        return
    from twotower.pairs.cluster import connect

    with connect(arguments.ray) as cluster:
        yield cluster
