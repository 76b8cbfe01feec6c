"""Measure the seconds from a cold interpreter to the first embed.

    python benchmarks/speed/startup.py [CHECKOUT]

Each run is a new process, with Python's modules compiled, as in an installation. The peer imports
numpy and onnxruntime alone, which every embed needs. CHECKOUT is another version of this
repository; both run in turn, and the ratios are taken within a round. Without it, writes
results/startup.csv.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import ROOT, write_results

RUNS = 9
COLUMNS = ("step", "median_seconds", "lowest", "highest", "heavy_modules")
STEPS = {
    "import numpy, onnxruntime (peer)": "import numpy, onnxruntime",
    "import twotower": "import twotower",
    "import, load, first text": "import twotower; twotower.load().encode_text('a red car')",
    "import, load, first picture": (
        "import twotower; twotower.load().encode_image('examples/photos/cat.jpg')"
    ),
}
TIMED = (
    "import sys, time; start = time.perf_counter(); {code}; print(time.perf_counter() - start); "
    "heavy = {{'torch', 'onnxruntime', 'openvino'}} & set(sys.modules); print(*heavy)"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of the peer; this package sets it by itself
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        if len(sys.argv) > 1:
            compare(Path(sys.argv[1]).resolve())
        else:
            measure()


def measure() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    heavy_modules: dict[str, str] = {}
    for _ in range(1 + RUNS):  # an additional run compiles the modules
        for name, code in STEPS.items():
            taken, heavy_modules[name] = run(code, ROOT)
            seconds[name].append(taken)
    rows = []
    for name, (_, *runs) in seconds.items():
        numbers = (statistics.median(runs), min(runs), max(runs))
        rows.append((name, *(f"{number:.3f}" for number in numbers), heavy_modules[name]))
    write_results("startup.csv", COLUMNS, rows)


def compare(checkout: Path) -> None:
    """Print the median seconds of both checkouts, and the ratio of this one to the other."""
    for name, code in STEPS.items():
        pairs = [(run(code, ROOT)[0], run(code, checkout)[0]) for _ in range(1 + RUNS)][1:]
        median, peer = (statistics.median(runs) for runs in zip(*pairs, strict=True))
        ratio = statistics.median(seconds / peer_seconds for seconds, peer_seconds in pairs)
        print(f"{name}: {median:.3f} s, {checkout.name} {peer:.3f} s, ratio {ratio:.2f}")


def run(code: str, checkout: Path) -> tuple[float, str]:
    """Run code in a new process; return its seconds and the heavy modules that it imported."""
    output = subprocess.run(
        [sys.executable, "-c", TIMED.format(code=code)],
        check=True,
        capture_output=True,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    ).stdout.splitlines()
    return float(output[0]), output[1]


if __name__ == "__main__":
    main()
