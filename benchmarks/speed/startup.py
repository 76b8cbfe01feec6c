"""Seconds from a cold interpreter to the first vector: `import twotower`, `load()`, first text.

    python benchmarks/speed/startup.py

Each run is a new process. numpy + onnxruntime alone is the peer: nobody can embed faster than that.
Writes results/startup.csv.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
from pathlib import Path

RUNS = 9
RESULTS = Path(__file__).parents[1] / "results" / "startup.csv"
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
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    loaded: dict[str, str] = {}
    for _ in range(RUNS):
        for name, code in STEPS.items():
            command = [sys.executable, "-c", TIMED.format(code=code)]
            answer = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                cwd=Path(__file__).parents[2],
            ).stdout.splitlines()
            seconds[name].append(float(answer[0]))
            loaded[name] = answer[1]
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "median_seconds", "lowest", "highest", "heavy_modules"))
        for name, runs in seconds.items():
            middle, low, high = statistics.median(runs), min(runs), max(runs)
            row = (name, f"{middle:.3f}", f"{low:.3f}", f"{high:.3f}", loaded[name])
            writer.writerow(row)
            print(*row)


if __name__ == "__main__":
    main()
