"""Tokenizing 50 000 distinct captions on one thread: ours, OpenAI's own, and `tokenizers`.

    pip download --no-deps --no-binary :all: openai-clip==1.0.1 && tar xzf openai-clip-1.0.1.tar.gz
    python benchmarks/speed/tokenizer.py ../shared/data openai-clip-1.0.1/clip/simple_tokenizer.py

Every run is a process of its own on one core, the three in turn, so that the machine's moods fall
on all alike; ratios are taken within a round. Each makes rows of 77 ids, and all must be equal.
Writes results/tokenizer.csv.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAPTIONS, ROUNDS, CONTEXT = 50_000, 7, 77
RESULTS = Path(__file__).parents[1] / "results" / "tokenizer.csv"

Rows = Callable[[list[str]], NDArray[np.int64]]


def main() -> None:
    data, original = Path(sys.argv[1]), sys.argv[2]
    seconds: dict[str, list[float]] = {"openai": [], "tokenizers": [], "twotower": []}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        captions = Path(folder) / "captions.json"
        captions.write_text(json.dumps(distinct_captions(data)))
        for _ in range(ROUNDS):
            for name, runs in seconds.items():
                command = [sys.executable, __file__, "--one", name, str(captions), original]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                taken, digest = answer.stdout.split()
                runs.append(float(taken))
                digests.add(digest)
    if len(digests) != 1:
        sys.exit("the tokenizers disagree")
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("tokenizer", "captions_per_second", "times_openai", "lowest", "highest"))
        for name, runs in seconds.items():
            ratios = [theirs / ours for theirs, ours in zip(seconds["openai"], runs, strict=True)]
            rate = CAPTIONS / statistics.median(runs)
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            row = (name, f"{rate:.0f}", f"{middle:.2f}", f"{low:.2f}", f"{high:.2f}")
            writer.writerow(row)
            print(*row)
    print(f"{CAPTIONS} distinct captions, ids identical in all")


def distinct_captions(data: Path) -> list[str]:
    """Flickr8k's captions, and each followed by another until there are enough."""
    found: dict[str, None] = {}
    for shard in sorted((data / "flickr8k-train").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    found.update(dict.fromkeys(json.load(file)["captions"]))
    single = list(found)
    pairs = (f"{one} {other}" for one, other in zip(single, single[7:], strict=False))
    found.update(dict.fromkeys(pairs))
    return list(found)[:CAPTIONS]


def run_one(name: str, captions: Path, original: str) -> None:
    """Seconds and a digest of the ids, for one tokenizer; loading it is not counted."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = json.loads(captions.read_text())
    rows = {"openai": openai, "tokenizers": tokenizers, "twotower": twotower}[name](original)
    rows(["a photo of a cat."])
    start = time.perf_counter()
    ids = rows(texts)
    taken = time.perf_counter() - start
    print(taken, hashlib.sha256(ids.astype(np.int64).tobytes()).hexdigest())


def openai(original: str) -> Rows:
    """Their encoder, and rows made as `clip.tokenize` makes them."""
    spec = importlib.util.spec_from_file_location("simple_tokenizer", original)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()

    def rows(texts: list[str]) -> NDArray[np.int64]:
        result = np.zeros((len(texts), CONTEXT), np.int64)
        for row, text in enumerate(texts):
            ids = [49406, *tokenizer.encode(text), 49407][:CONTEXT]
            ids[-1] = 49407
            result[row, : len(ids)] = ids
        return result

    return rows


def tokenizers(_: str) -> Rows:
    """Hugging Face's Rust tokenizer, as transformers' CLIPTokenizer sets it up."""
    from transformers import CLIPTokenizer

    from twotower.inputs.byte_pairs import clip_vocabulary

    vocab, merges = clip_vocabulary()
    clip_tokenizer: Any = CLIPTokenizer
    backend = clip_tokenizer(vocab=vocab, merges=merges)._tokenizer
    backend.enable_truncation(CONTEXT)
    backend.enable_padding(length=CONTEXT, pad_id=0)
    return lambda texts: np.array([one.ids for one in backend.encode_batch_fast(texts)], np.int64)


def twotower(_: str) -> Rows:
    from twotower.inputs.tokenizer import OPENAI_TOKENIZER, load_tokenizer

    tokenizer = load_tokenizer(OPENAI_TOKENIZER)
    return lambda texts: tokenizer(texts).input_ids


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
