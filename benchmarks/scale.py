"""Compute hours, disk and cost of collecting pairs and embedding; fill the tables of docs/scale.md.

    python benchmarks/scale.py [--machines 32] [--cores 16] [--success 0.6] ...

The rates of a core are those of `benchmarks/results`; everything else is an option.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.table import fill_tables, read_results, to_markdown

TARGETS = (400_000_000, 5_000_000_000)  # kept pairs
# Bytes of a pair in memory while pairs are compared (docs/pairs-filter.md, "Near-duplicates").
COMPARED_BYTES = 500
EMBEDDED = 1_000_000_000  # pictures
MEASURED_CORES = 2  # of the machine of peers.csv and pipeline.csv
VECTOR_BYTES = 512 * 4
OPTIONS: Mapping[str, tuple[float, str]] = {
    "machines": (32, "machines of the cluster, and groups of shards that are compared and packed"),
    "cores": (16, "cores of a machine"),
    "pairs-per-page": (5, "candidates that a page of an archive gives"),
    "success": (0.6, "share of the URLs that still give a picture that may be used"),
    "kept": (0.3, "share of the fetched pairs that the filters keep"),
    "page-kb": (20, "kilobytes of a page in a compressed archive"),
    "download-kb": (150, "kilobytes of a picture as its host sends it"),
    "stored-kb": (45, "kilobytes of a stored picture, 512 pixels on the shorter side"),
    "core-hour": (0.04, "price of a core for an hour"),
    "tb-month": (20, "price of a terabyte of disk for a month"),
}


@dataclass(frozen=True)
class Step:
    """A step: its name, the items that it reads, and the items that a core reads in a second."""

    name: str
    items: float
    rate: float

    @property
    def core_hours(self) -> float:
        return self.items / self.rate / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, (default, text) in OPTIONS.items():
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} ({default:g})")
    options = parser.parse_args()
    sizes = [estimate(target, options) for target in TARGETS]
    names = ["", *(f"{target / 1e6:,.0f} million pairs" for target in TARGETS)]
    rows = [[label, *(size[label] for size in sizes)] for label in sizes[0]]
    table = to_markdown(names, rows)
    print(table)
    assumptions = [[f"--{name}", f"{getattr(options, name.replace('-', '_')):g}", text]
                   for name, (_, text) in OPTIONS.items()]  # fmt: skip
    rates = [[step.name, f"{step.rate:,.0f}"] for step in steps(1, options)]
    fill_tables(
        {
            "scale": table,
            "assumptions": to_markdown(["option", "value", "quantity"], assumptions),
            "rates": to_markdown(["step", "items a core and second"], rates),
            "embedding": to_markdown(
                ["model", "pictures a core and second", "core hours", "price", "disk"],
                embedding_rows(options),
            ),
        }
    )


def embedding_rows(options: argparse.Namespace) -> list[list[str]]:
    """Return the cost of embedding `EMBEDDED` pictures with several models."""
    peers = {(row["model"], row["method"]): row["batch_8"] for row in read_results("peers.csv")}
    rates = {
        "small": rate_of("pipeline.csv", "measurement", "encode, small", "value"),
        "base": float(peers["base", "twotower"]),
        "base in int8": float(peers["base", "twotower, int8"]),
        "ViT-B/32 in int8": float(peers["ViT-B-32", "twotower, int8"]),
    }
    decode = rate_of("pipeline.csv", "measurement", "decode, small", "value")
    rows = []
    for name, encode in rates.items():
        rate = 1 / (1 / decode + 1 / encode) / MEASURED_CORES
        core_hours = EMBEDDED / rate / 3600
        price = core_hours * options.core_hour
        disk = EMBEDDED * VECTOR_BYTES / 1e12
        rows.append([name, f"{rate:.1f}", f"{core_hours:,.0f}", f"{price:,.0f}", f"{disk:.1f} TB"])
    return rows


def steps(target: int, options: argparse.Namespace) -> list[Step]:
    """Return the steps that give `target` kept pairs."""
    fetched = target / options.kept
    candidates = fetched / options.success
    texts = rate_of("duplicates_of_pairs.csv", "method", "texts, twotower", "microseconds_a_pair")
    hashes = rate_of(
        "duplicates_of_pairs.csv", "method", "pictures, twotower", "microseconds_a_pair"
    )
    return [
        Step(
            "collect, pages",
            candidates / options.pairs_per_page,
            rate_of("pages_to_pairs.csv", "pages", "made", "pages_per_second_and_core"),
        ),
        Step(
            "fetch and resize, URLs",
            candidates,
            rate_of("fetch.csv", "program", "twotower, resized", "pictures_per_processor_second"),
        ),
        Step("filter: features, pairs", fetched, step_rate("features")),
        Step("filter: compare, pairs (a core of each machine)", fetched, 1e6 / (texts + hashes)),
        Step("filter: score by `small`, pairs", fetched, step_rate("score, small")),
        Step("pack, pairs (a core of each machine)", fetched, step_rate("pack")),
    ]


def step_rate(step: str) -> float:
    return rate_of("pair_steps.csv", "step", step, "pairs_per_processor_second")


def rate_of(file: str, key: str, value: str, column: str) -> float:
    """Return a column of the first row of results whose column `key` has a value."""
    return float(next(row for row in read_results(file) if row[key] == value)[column])


def estimate(target: int, options: argparse.Namespace) -> dict[str, str]:
    """Return the lines of the table for a number of kept pairs."""
    fetched = target / options.kept
    candidates = fetched / options.success
    pages = candidates / options.pairs_per_page
    cores = options.machines * options.cores
    lines = {
        "pages": f"{pages / 1e6:,.0f} million",
        "URLs": f"{candidates / 1e6:,.0f} million",
        "fetched pairs": f"{fetched / 1e6:,.0f} million",
    }
    hours = 0.0
    core_hours = 0.0
    for step in steps(target, options):
        used = options.machines if "of each machine" in step.name else cores
        core_hours += step.core_hours
        hours += step.core_hours / used
        lines[step.name] = f"{step.core_hours:,.0f} core hours, {step.core_hours / used:,.1f} h"
    archives, shards, final = (
        count * kilobytes / 1e9
        for count, kilobytes in (
            (pages, options.page_kb),
            (fetched, options.stored_kb),
            (target, options.stored_kb),
        )
    )
    group = fetched / options.machines  # pairs that are compared and packed by a machine
    months = max(1.0, hours / 730)
    downloads = candidates * options.success * options.download_kb * 8e3
    fetch_seconds = steps(target, options)[1].core_hours / cores * 3600
    disk_price = (shards + final) * options.tb_month * months
    lines |= {
        "all steps": f"{core_hours:,.0f} core hours, {hours:,.0f} h",
        "archives, read once": f"{archives:,.1f} TB",
        "disk: fetched and packed shards": f"{shards:,.0f} + {final:,.0f} TB",
        "network while fetching": f"{downloads / fetch_seconds / 1e9:,.1f} Gbit/s",
        "memory of each machine that compares": f"{group * COMPARED_BYTES / 1e9:,.0f} GB",
        "price: cores + disk": f"{core_hours * options.core_hour:,.0f} + {disk_price:,.0f}",
    }
    return lines


if __name__ == "__main__":
    main()
