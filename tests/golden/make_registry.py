"""Write registry.json: the configuration of each named model, as its repository has it.

Needs open_clip (3.3.0); see make_open_clip.py for how to run it.
"""

import json
from pathlib import Path
from typing import Any

import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip

from twotower.encode.registry import NamedModel, read_registry

FILE = Path(__file__).with_name("registry.json")


def main() -> None:
    trees = {}
    for model in read_registry().models:
        if model.hub.startswith(("openai/", "wkcn/")):
            trees[model.name] = transformers_config(model)
        elif model.hub:
            trees[model.name] = open_clip_config(model)
    FILE.write_text(json.dumps(trees, indent=1) + "\n", encoding="utf-8")


def open_clip_config(model: NamedModel) -> dict[str, Any]:
    """Return what open_clip writes as open_clip_config.json."""
    tags = [
        settings
        for tag in open_clip.list_pretrained_tags_by_model(model.config)
        if (settings := open_clip.get_pretrained_cfg(model.config, tag) or {})
        and settings.get("hf_hub", "").strip("/") == model.hub
    ]
    assert tags, f"{model.name}: {model.config} has no weights in {model.hub}"
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: tags[0][key] for key in keys if key in tags[0]}
    config = open_clip.get_model_config(model.config)
    if tags[0].get("quick_gelu"):
        config["quick_gelu"] = True
    return {"model_cfg": config, "preprocess_cfg": preprocess}


def transformers_config(model: NamedModel) -> dict[str, Any]:
    """Return the sizes that transformers' config.json has for an architecture of open_clip."""
    sizes = TINYCLIP.get(model.config) or open_clip.get_model_config(model.config)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    return {
        "model_type": "clip",
        "projection_dim": sizes["embed_dim"],
        "vision_config": {
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // 64,
        },
        "text_config": {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
        },
    }


# src/open_clip/model_configs/ of wkcn/TinyCLIP
TINYCLIP: dict[str, dict[str, Any]] = {
    "TinyCLIP-ViT-8M-16-Text-3M": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 10, "width": 256, "patch_size": 16},
        "text_cfg": {"width": 256, "heads": 4, "layers": 3},
    },
    "TinyCLIP-ViT-39M-16-Text-19M": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 512, "patch_size": 16},
        "text_cfg": {"width": 512, "heads": 8, "layers": 6},
    },
}

if __name__ == "__main__":
    main()
