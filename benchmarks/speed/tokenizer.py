"""Tokenize 50,000 distinct captions on one thread: twotower, OpenAI's own code and `tokenizers`.

    pip download --no-deps --no-binary :all: openai-clip==1.0.1 && tar xzf openai-clip-1.0.1.tar.gz
    python benchmarks/speed/tokenizer.py ../shared/data openai-clip-1.0.1/clip/simple_tokenizer.py

Every run is a process of its own on one core. The three run in turn, so that changes of the
machine's load affect all of them; ratios are taken within a round. Each makes rows of 77 ids, and
all must be equal. Writes results/tokenizer.csv.
"""

from __future__ import annotations

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

from benchmarks.table import write_results
from twotower.arrays import Int64Array

CAPTIONS, ROUNDS, CONTEXT = 50_000, 7, 77
COLUMNS = ("tokenizer", "captions_per_second", "times_openai", "lowest", "highest")

Tokenize = Callable[[list[str]], Int64Array]


def main() -> None:
    data, original = Path(sys.argv[1]), sys.argv[2]
    seconds: dict[str, list[float]] = {"openai": [], "tokenizers": [], "twotower": []}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        captions = Path(folder) / "captions.json"
        captions.write_text(json.dumps(distinct_captions(data)))
        for _ in range(ROUNDS):
            for name, runs in seconds.items():
                command = [sys.executable, __file__, "--run", name, str(captions), original]
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                taken, digest = process.stdout.split()
                runs.append(float(taken))
                digests.add(digest)
    if len(digests) != 1:
        sys.exit("the tokenizers disagree")
    rows = []
    for name, runs in seconds.items():
        ratios = [openai / run for openai, run in zip(seconds["openai"], runs, strict=True)]
        rate = CAPTIONS / statistics.median(runs)
        numbers = (statistics.median(ratios), min(ratios), max(ratios))
        rows.append((name, f"{rate:.0f}", *(f"{number:.2f}" for number in numbers)))
    write_results("tokenizer.csv", COLUMNS, rows)
    print(f"{CAPTIONS} distinct captions, ids identical in all")


def distinct_captions(data: Path) -> list[str]:
    """Return captions of Flickr8k, and pairs of them until there are enough."""
    captions: dict[str, None] = {}
    for shard in sorted((data / "flickr8k-train").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json") and (file := tar.extractfile(member)):
                    captions.update(dict.fromkeys(json.load(file)["captions"]))
    single = list(captions)
    pairs = (f"{text} {addition}" for text, addition in zip(single, single[7:], strict=False))
    captions.update(dict.fromkeys(pairs))
    return list(captions)[:CAPTIONS]


def run_tokenizer(name: str, captions: Path, original: str) -> None:
    """Print the seconds of a tokenizer, without loading it, and a digest of its ids."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = json.loads(captions.read_text())
    tokenize = {"openai": openai, "tokenizers": tokenizers, "twotower": twotower}[name](original)
    tokenize(["a photo of a cat."])
    start = time.perf_counter()
    ids = tokenize(texts)
    taken = time.perf_counter() - start
    print(taken, hashlib.sha256(ids.astype(np.int64).tobytes()).hexdigest())


def openai(original: str) -> Tokenize:
    """Return OpenAI's encoder, with rows made as `clip.tokenize` makes them."""
    spec = importlib.util.spec_from_file_location("simple_tokenizer", original)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()

    def tokenize(texts: list[str]) -> Int64Array:
        rows = np.zeros((len(texts), CONTEXT), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [49406, *tokenizer.encode(text), 49407][:CONTEXT]
            ids[-1] = 49407
            row[: len(ids)] = ids
        return rows

    return tokenize


def tokenizers(_: str) -> Tokenize:
    """Return Hugging Face's Rust tokenizer, configured as transformers' CLIPTokenizer does."""
    from transformers import CLIPTokenizer

    from twotower.inputs.byte_pairs import clip_vocabulary

    vocab, merges = clip_vocabulary()
    clip_tokenizer: Any = CLIPTokenizer
    backend = clip_tokenizer(vocab=vocab, merges=merges)._tokenizer
    backend.enable_truncation(CONTEXT)
    backend.enable_padding(length=CONTEXT, pad_id=0)
    return lambda texts: np.array(
        [encoding.ids for encoding in backend.encode_batch_fast(texts)], np.int64
    )


def twotower(_: str) -> Tokenize:
    from twotower.inputs.tokenizer import OPENAI_TOKENIZER, load_tokenizer

    tokenizer = load_tokenizer(OPENAI_TOKENIZER)
    return lambda texts: tokenizer(texts).input_ids


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_tokenizer(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
