"""Make `timm/*.npz`: weights, inputs and stages of tiny models with timm's image towers.

The flags of each tower are those of timm's function of the published name; only its sizes are
smaller. The text tower is open_clip's. The environment is that of `make_open_clip.py`.
"""

import json
from pathlib import Path

import numpy as np
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip
import timm
from open_clip.transformer import TextTransformer

HERE = Path(__file__).with_name("timm")
VIT = {"img_size": 40, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
# name: (of open_clip's configuration, of timm's function, its smaller sizes)
TRUNKS = {
    "pe-core": ("PE-Core-B-16", VIT | {"mlp_ratio": 2}),
    "pe-core-g": ("PE-Core-bigG-14-448", VIT | {"mlp_ratio": 2}),
    "eva02": ("EVA02-B-16", VIT),
    "eva02-e": ("EVA02-E-14", VIT | {"mlp_ratio": 2}),
    "eva01": ("EVA01-g-14", VIT | {"mlp_ratio": 2}),
}
TEXT = {"context_length": 16, "vocab_size": 96, "width": 16, "heads": 2, "layers": 1}
EMBED_DIM = 20


def shake(model: torch.nn.Module) -> None:
    """Set random weights that are exact in float16, so that the file is small."""
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.copy_(1 + 0.3 * torch.rand_like(tensor))
        elif tensor.is_floating_point() and name != "logit_scale" and "attn_mask" not in name:
            tensor.add_(0.1 * torch.randn_like(tensor))
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(3, TEXT["context_length"], dtype=torch.long)
    for row, length in enumerate((4, 9, 15)):
        ids[row, 1:length] = torch.randint(1, 90, (length - 1,))
        ids[row, 0], ids[row, length] = 94, 95
    return torch.randn(2, 3, size, size).half().float(), ids


def stage_modules(trunk: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the modules whose outputs are kept, under the names of the stages."""
    return {f"vision.block.{i}": block for i, block in enumerate(trunk.blocks)}


def text_tower(cfg: dict) -> TextTransformer:
    """Return a small text tower that attends as that of a configuration."""
    return TextTransformer(
        **TEXT, output_dim=EMBED_DIM, no_causal_mask=cfg.get("no_causal_mask", False)
    )


@torch.no_grad()
def make(name: str, published: str, sizes: dict) -> None:
    torch.manual_seed(7)
    tree = open_clip.get_model_config(published)
    vision_cfg = tree["vision_cfg"]
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.trunk = trunk = timm.create_model(
        vision_cfg["timm_model_name"],
        num_classes=EMBED_DIM,
        global_pool=vision_cfg["timm_pool"],
        **sizes,
    )
    model.text = text_tower(tree["text_cfg"])
    model.logit_scale = torch.nn.Parameter(torch.tensor(2.3))
    model.eval()
    shake(model)
    outputs: dict[str, torch.Tensor] = {}
    for key, module in stage_modules(trunk).items():
        module.register_forward_hook(lambda _m, _i, out, key=key: outputs.__setitem__(key, out))
    pixel_values, ids = inputs(sizes["img_size"])
    outputs["image_features"] = trunk(pixel_values)
    outputs["text_features"] = model.text(ids)
    tree["embed_dim"] = EMBED_DIM
    tree["text_cfg"] |= TEXT
    weights = {k: v for k, v in model.state_dict().items() if "attn_mask" not in k}
    weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    arrays = {f"weights/{k}": v for k, v in weights.items()}
    arrays |= {f"stages/{k}": v for k, v in outputs.items()}
    arrays |= {"pixel_values": pixel_values.half(), "input_ids": ids}
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=json.dumps(tree),
        versions=f"open_clip {open_clip.__version__}, timm {timm.__version__}",
        **{key: value.numpy() for key, value in arrays.items()},
    )


if __name__ == "__main__":
    for name, arguments in TRUNKS.items():
        make(name, *arguments)
