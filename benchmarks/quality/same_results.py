"""Compare what two checkouts answer about the example photographs, bit for bit.

    git worktree add ../before REVISION
    python benchmarks/quality/same_results.py ../before .

Run the same commands and public functions in both checkouts and compare the output as text:
vectors and trained weights as SHA-256 of their bytes, everything else as the JSON that the command
line prints. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SEARCHES = (
    "a dog",
    "water",
    "a big city at night",
    "a brain scan",
    '"beach" - "people"',
    '2 * "animal" + photos/cat.jpg',
    "orientation:portrait",
    "flower type:jpeg after:2000",
    "photos/elephant.png",
)
LIBRARY_QUESTIONS = (
    "how many of my pictures show a beach?",
    "which pictures show an animal?",
    "when did I last photograph a bicycle?",
)
EMBEDS = """
import hashlib, pathlib, twotower
model = twotower.load()
pictures = sorted(p for p in pathlib.Path("photos").iterdir() if p.suffix not in (".csv", ".md"))
texts = pathlib.Path("labels.txt").read_text().splitlines()
for name, embeds in (("image_embeds", model.encode_image(pictures)),
                     ("text_embeds", model.encode_text(texts))):
    print(name, embeds.shape, embeds.dtype, hashlib.sha256(embeds.tobytes()).hexdigest())
"""
WEIGHTS = """
import hashlib, pathlib
print(hashlib.sha256(pathlib.Path("run/model/model.safetensors").read_bytes()).hexdigest())
"""


def main() -> int:
    """Run every case in both checkouts; print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    checkouts = parser.parse_args()
    examples = checkouts.after.resolve() / "examples"
    outputs = {
        "before": run_cases(checkouts.before.resolve(), examples),
        "after": run_cases(checkouts.after.resolve(), examples),
    }
    differing = 0
    for name, before in outputs["before"].items():
        after = outputs["after"][name]
        equal = before == after
        differing += not equal
        print(f"{'same' if equal else 'DIFFERENT':10}{len(before):8} characters  {name}")
        if not equal:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
            print("\n".join(list(lines)[:20]))
    print(f"{len(outputs['before']) - differing} of {len(outputs['before'])} outputs are equal")
    return 1 if differing else 0


def run_cases(checkout: Path, examples: Path) -> dict[str, str]:
    """Return the output of each case, run with the package of `checkout`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(examples / "photos", folder / "photos")
        shutil.copy2(examples / "labels.txt", folder)
        shutil.copy2(checkout / "twotower/train/emoji/twemoji.tar", folder / "pairs.tar")
        outputs = {}
        for name, arguments in cases(examples).items():
            print(f"{checkout.name}: {name}", file=sys.stderr)
            outputs[name] = run_python(arguments, checkout, folder)
        return outputs


def cases(examples: Path) -> dict[str, list[str]]:
    """Return the arguments of Python for each case, in the order in which they must run."""
    command = ["-m", "twotower"]
    classify = [*command, "classify", "photos", "--labels", "labels.txt", "--json"]
    tag = [*command, "tag", "photos", "--dry-run", "--json", "--precision"]
    calls = {
        "embeds": ["-c", EMBEDS],
        "classify": classify,
        "classify --none": [*classify, "--none"],
        "index": [*command, "index", "photos"],
    }
    for query in SEARCHES:
        search = [*command, "search", query, "photos", "--all", "--top", "60", "--json"]
        calls[f"search {query}"] = search
    calls["similar"] = [*command, "similar", "photos/horse.jpg", "photos", "--all", "--json"]
    calls["duplicates"] = [*command, "duplicates", "photos", "--json"]
    calls["tag at 0.9"] = [*tag, "0.9"]
    calls["tag at 0.6"] = [*tag, "0.6"]
    for picture, questions in read_questions(examples / "questions.csv").items():
        ask = [*command, "ask", f"photos/{picture}", *questions, "--json"]
        calls[f"ask {picture} ({len(questions)} questions)"] = ask
    for question in LIBRARY_QUESTIONS:
        calls[f"ask {question}"] = [*command, "ask", "photos", question, "--json"]
    train = [*command, "train", "pretrain", "pairs.tar", "--run", "run", "--model", "RN50"]
    calls["train"] = [*train, "--batch-size", "4", "--steps", "3"]
    calls["trained weights"] = ["-c", WEIGHTS]
    return calls


def read_questions(path: Path) -> dict[str, list[str]]:
    """Return the questions about each picture of a table with columns file and question."""
    questions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            questions.setdefault(row["file"], []).append(row["question"])
    return questions


def run_python(arguments: list[str], checkout: Path, folder: Path) -> str:
    """Run Python in `folder` with the package of `checkout`; return standard output.

    What training and indexing print is about time and wording, so it counts for nothing here.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        return f"exit code {result.returncode}\n{result.stderr}"
    if arguments[2:3] in (["train"], ["index"]):
        return "done"
    return re.sub(re.escape(str(folder)), "FOLDER", result.stdout)


if __name__ == "__main__":
    sys.exit(main())
