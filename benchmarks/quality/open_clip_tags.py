"""Try every pretrained tag of open_clip: are its configuration and tensors accepted?

For each architecture that has a tag, open_clip builds the model with its own code on torch's meta
device, which has names and shapes but no numbers. Configuration and preprocessing are written as
in open_clip's directories, with a small vocabulary in place of the published one, and read by
`open_clip_config` and `import_open_clip`. What cannot be read is listed with the reason.

It needs open_clip, whose environment tests/golden/make_open_clip.py describes, and writes
benchmarks/results/open_clip_tags.csv:

    python -m benchmarks.quality.open_clip_tags
"""

from __future__ import annotations

import csv
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality.open_clip_hub import HUB, tokens_of, write_vocabulary
from twotower.errors import ModelError
from twotower.model.foreign.open_clip import CONFIG, import_open_clip, open_clip_config

RESULTS = Path(__file__).parents[1] / "results" / "open_clip_tags.csv"
COLUMNS = ("architecture", "tag", "loads", "parameters", "reason")
PREPROCESS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")


def import_libraries() -> Any:
    """Import open_clip; declare the operators that torchvision misses beside a CPU torch."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip
    import open_clip.hf_model
    import transformers

    configurations = {
        name: getattr(transformers, kind)(**sizes) for name, (kind, sizes) in HUB.items()
    }
    open_clip.hf_model.AutoConfig.from_pretrained = configurations.__getitem__
    return open_clip


def build(open_clip: Any, model_cfg: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return arrays with the names and shapes of an architecture, which take no memory."""
    settings = json.loads(json.dumps(model_cfg))
    if "hf_model_name" in settings["text_cfg"]:
        settings["text_cfg"]["hf_model_pretrained"] = False
    custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    model: Callable[..., Any] = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if "multimodal_cfg" in settings:
        model = open_clip.CoCa
    with torch.device("meta"):
        tensors = model(**settings).state_dict()
    return {name: np.broadcast_to(np.int8(0), tensor.shape) for name, tensor in tensors.items()}


def check(
    model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], theirs: dict[str, NDArray[Any]]
) -> str:
    """Read a model as from a directory of open_clip. Returns the reason if it cannot be read."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        tokens = tokens_of(model_cfg["text_cfg"].get("hf_tokenizer_name"))
        if tokens is not None:
            write_vocabulary(tokens, directory)
        tree = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
        try:
            config = open_clip_config(json.loads(json.dumps(tree)), theirs, directory / CONFIG)
            import_open_clip(config, theirs, directory)
        except ModelError as error:
            subject = str(error.subject).removeprefix(str(directory)).removeprefix(f"/{CONFIG}: ")
            return f"{subject}: {error.reason}".removeprefix(": ")
        return ""


def rows(open_clip: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each tag, in open_clip's order."""
    tags: dict[str, list[str]] = {}
    for architecture, tag in open_clip.list_pretrained():
        tags.setdefault(architecture, []).append(tag)
    for architecture, names in tags.items():
        model_cfg = open_clip.get_model_config(architecture)
        theirs: dict[str, NDArray[Any]] = {}
        reason = ""
        try:
            theirs = build(open_clip, model_cfg)
        except Exception as error:  # an architecture that this version of timm lacks
            reason = f"open_clip cannot build it ({error})"
        count = sum(
            math.prod(tensor.shape)
            for name, tensor in theirs.items()
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        )
        for tag in names:
            published = open_clip.get_pretrained_cfg(architecture, tag)
            preprocess = {key: published[key] for key in PREPROCESS if key in published}
            refusal = reason or check(model_cfg, preprocess, theirs)
            yield dict(zip(COLUMNS, (architecture, tag, not refusal, count, refusal), strict=True))
        print(architecture, len(names), refusal or "loads", file=sys.stderr)


def main() -> None:
    table = list(rows(import_libraries()))
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print(f"{sum(row['loads'] for row in table)} of {len(table)} tags load")


if __name__ == "__main__":
    main()
