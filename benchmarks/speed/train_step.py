"""Compare the seconds of a training step with open_clip's: same model, batch and captions.

    python benchmarks/speed/train_step.py ../shared/data PEER_PYTHON [BATCH [MODEL ...]]

PEER_PYTHON is an interpreter with torch 2.13.0 and open_clip_torch 3.3.0 (tests/golden/
make_open_clip.py describes the installation beside a CPU torch). Each run is a process of its own,
the two in turn; the first step of a process is not counted. A step is forward, loss, backward and
AdamW with fresh weights, float32, on noise as pictures and Flickr8k's captions as texts. Each side
does it like its own trainer: open_clip pads captions to 77 positions and uses torch's AdamW with
its defaults. Writes results/train_step.csv.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS, STEPS = 2, 2
COLUMNS = ("model", "batch", "open_clip_seconds", "twotower_seconds", "times")
MODELS = {  # vision width, layers, heads, patch size; text width, layers, heads
    "ViT-B-32": (768, 12, 12, 32, 512, 12, 8),
    "ViT-S-16": (384, 12, 6, 16, 384, 12, 6),
}


def main() -> None:
    data, peer = Path(sys.argv[1]), sys.argv[2]
    batch = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    models = sys.argv[4:] or list(MODELS)
    files = sorted((data / "flickr8k-val").glob("*.json"))[:batch]
    captions = [json.loads(file.read_text())["captions"][0] for file in files]
    interpreters = {"open_clip": peer, "twotower": sys.executable}
    for model in models:
        seconds: dict[str, list[float]] = {name: [] for name in interpreters}
        for _ in range(ROUNDS):
            for name, interpreter in interpreters.items():
                command = [interpreter, __file__, "--run", name, model]
                process = subprocess.run(
                    command, input=json.dumps(captions), capture_output=True, text=True, check=True
                )
                seconds[name].append(float(process.stdout.split()[-1]))
        peer_median, median = (statistics.median(seconds[name]) for name in interpreters)
        times = f"{peer_median / median:.2f}"
        replace_row((model, str(batch), f"{peer_median:.2f}", f"{median:.2f}", times))


def replace_row(row: tuple[str, ...]) -> None:
    """Write a model's row in place of its earlier one."""
    from benchmarks.table import read_results, write_results  # not installed beside the peer

    rows = [tuple(earlier.values()) for earlier in read_results("train_step.csv")]
    rows = [earlier for earlier in rows if earlier[:2] != row[:2]]
    write_results("train_step.csv", COLUMNS, [*rows, row])


def run_steps(name: str, model: str) -> None:
    """Print the median seconds of a step."""
    step = {"open_clip": open_clip_step, "twotower": twotower_step}[name](
        model, json.load(sys.stdin)
    )
    step()
    runs = []
    for _ in range(STEPS):
        start = time.perf_counter()
        step()
        runs.append(time.perf_counter() - start)
    print(statistics.median(runs))


def open_clip_step(model: str, captions: list[str]) -> Callable[[], None]:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip
    from open_clip.loss import ClipLoss

    width, layers, heads, patch, text_width, text_layers, text_heads = MODELS[model]
    vision = {
        "image_size": 224,
        "layers": layers,
        "width": width,
        "head_width": width // heads,
        "patch_size": patch,
    }
    text = {
        "context_length": 77,
        "vocab_size": 49408,
        "width": text_width,
        "heads": text_heads,
        "layers": text_layers,
    }
    net = open_clip.CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4)
    loss, texts = ClipLoss(), open_clip.SimpleTokenizer()(captions)
    pixel_values = torch.randn(len(captions), 3, 224, 224)

    def step() -> None:
        images, words, scale = net(pixel_values, texts)[:3]
        loss(images, words, scale).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def twotower_step(model: str, captions: list[str]) -> Callable[[], None]:
    from dataclasses import replace

    import torch

    import twotower
    from twotower.inputs.tokenizer import load_tokenizer
    from twotower.model.clip import CLIP
    from twotower.model.config import TextTransformerConfig, ViTConfig
    from twotower.train.accumulate import backward_batch
    from twotower.train.config import DataConfig, TrainConfig
    from twotower.train.loss import tiled_clip_loss
    from twotower.train.malloc import keep_freed_memory
    from twotower.train.optimizer import build_optimizers
    from twotower.train.towers import Towers

    keep_freed_memory()  # as `twotower train` does
    width, layers, heads, patch, text_width, text_layers, text_heads = MODELS[model]
    config = replace(
        twotower.preset("ViT-B-32"),
        vision=ViTConfig(224, patch, width, layers, heads, 4 * width, "quick_gelu"),
        text=TextTransformerConfig(
            77, 49408, text_width, text_layers, text_heads, 4 * text_width, "quick_gelu"
        ),
    )
    net = CLIP(config).train()
    towers = Towers(net)
    run = TrainConfig(config, DataConfig(()), steps=1)
    [optimizer] = build_optimizers(net, run)
    tokens = load_tokenizer(config.tokenizer)(captions)
    texts = torch.from_numpy(tokens.input_ids[:, : tokens.attention_mask.sum(axis=1).max()].copy())
    pixel_values = torch.randn(len(captions), 3, 224, 224)

    def step() -> None:
        backward_batch(
            towers,
            [net.logit_scale],
            pixel_values,
            texts,
            lambda images, words: tiled_clip_loss(images, words, net.logit_scale),
            len(captions),
        )
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_steps(sys.argv[2], sys.argv[3])
    else:
        main()
