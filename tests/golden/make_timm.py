"""Make `timm/*.npz`: inputs and stages of tiny models with timm's image towers.

The flags of each tower are those of timm's function of the published name; only its sizes are
smaller. The text tower is open_clip's. Weights are those of `named_weights.py`. The environment is
that of `make_open_clip.py`.
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
from named_weights import named_weights
from open_clip.transformer import TextTransformer

HERE = Path(__file__).with_name("timm")
hybrid = timm.models.vision_transformer_hybrid
FullStem = hybrid.ConvStem
hybrid.ConvStem = lambda channels, **flags: FullStem(
    channels=tuple(c // 48 for c in channels), **flags
)

VIT = {"img_size": 40, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CONV_VIT = {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
VITAMIN = CONV_VIT | {
    "embed_cfg": timm.models.vitamin.VitCfg(embed_dim=(8, 12, 16), depths=(2, 4, 1), stem_width=8)
}
# name: (of open_clip's configuration, of timm's function, its smaller sizes)
TRUNKS = {
    "pe-core": ("PE-Core-B-16", VIT | {"mlp_ratio": 2}),
    "pe-core-g": ("PE-Core-bigG-14-448", VIT | {"mlp_ratio": 2}),
    "eva02": ("EVA02-B-16", VIT),
    "eva02-e": ("EVA02-E-14", VIT | {"mlp_ratio": 2}),
    "eva01": ("EVA01-g-14", VIT | {"mlp_ratio": 2}),
    "mobileclip2-l": ("MobileCLIP2-L-14", VIT | {"mlp_ratio": 2}),
    "mobileclip-b": ("MobileCLIP-B", CONV_VIT),
    "mobileclip-s0": (
        "MobileCLIP2-S0",
        {"img_size": 64, "layers": (1, 1, 1, 1), "embed_dims": (4, 8, 16, 32)},
    ),
    "mobileclip-s3": (
        "MobileCLIP2-S3",
        {"img_size": 64, "layers": (1, 1, 1, 1, 1), "embed_dims": (4, 8, 16, 32, 32)},
    ),
    "vitamin": ("ViTamin-B", VITAMIN),
    "vitamin-xl": ("ViTamin-XL-336", VITAMIN),
}
TEXT = {"context_length": 16, "vocab_size": 96, "width": 16, "heads": 2, "layers": 1}
EMBED_DIM = 20


def set_weights(model: torch.nn.Module) -> dict[str, list[int]]:
    """Set named weights; return the shapes of the tensors."""
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if "attn_mask" not in name and "num_batches" not in name
    }
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name, array in named_weights(shapes).items():
        tensors[name].copy_(torch.from_numpy(array))
    return shapes


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(3, TEXT["context_length"], dtype=torch.long)
    for row, length in enumerate((4, 9, 15)):
        ids[row, 1:length] = torch.randint(1, 90, (length - 1,))
        ids[row, 0], ids[row, length] = 94, 95
    return (torch.randn(2, 3, size, size) * 16).round() / 4, ids


def stage_modules(trunk: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the modules whose outputs are kept, under the names of the stages."""
    if hasattr(trunk, "stages"):
        stages = {f"vision.stage.{i}": stage for i, stage in enumerate(trunk.stages)}
        return {"vision.stem": trunk.stem} | stages | {"vision.final": trunk.final_conv}
    return {f"vision.block.{i}": block for i, block in enumerate(trunk.blocks)}


def make_visual(vision_cfg: dict, sizes: dict) -> torch.nn.Module:
    """Build the image tower of a configuration as open_clip's `TimmModel` does, but smaller."""
    visual = torch.nn.Module()
    visual.head = torch.nn.Sequential()
    name, pool = vision_cfg["timm_model_name"], vision_cfg["timm_pool"]
    sizes = {k: v for k, v in sizes.items() if k != "img_size" or "fastvit" not in name}
    if vision_cfg["timm_proj"] == "linear":
        visual.trunk = timm.create_model(name, num_classes=0, **sizes)
        projection = torch.nn.Linear(visual.trunk.num_features, EMBED_DIM, bias=False)
        visual.head.add_module("proj", projection)
    else:
        visual.trunk = timm.create_model(name, num_classes=EMBED_DIM, global_pool=pool, **sizes)
    return visual


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
    model.visual = make_visual(vision_cfg, sizes)
    model.text = text_tower(tree["text_cfg"])
    model.logit_scale = torch.nn.Parameter(torch.tensor(2.3))
    model.eval()
    shapes = set_weights(model)
    outputs: dict[str, torch.Tensor] = {}
    for key, module in stage_modules(model.visual.trunk).items():
        module.register_forward_hook(lambda _m, _i, out, key=key: outputs.__setitem__(key, out))
    pixel_values, ids = inputs(sizes["img_size"])
    outputs["image_features"] = model.visual.head(model.visual.trunk(pixel_values))
    outputs["text_features"] = model.text(ids)
    tree["embed_dim"], vision_cfg["image_size"] = EMBED_DIM, sizes["img_size"]
    tree["text_cfg"] |= TEXT
    assert all(torch.isfinite(output).all() for output in outputs.values())
    arrays = {f"stages/{k}": v for k, v in outputs.items()}
    arrays |= {"pixel_values": pixel_values.half(), "input_ids": ids}
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=json.dumps(tree),
        shapes=json.dumps(shapes),
        versions=f"open_clip {open_clip.__version__}, timm {timm.__version__}",
        **{key: value.numpy() for key, value in arrays.items()},
    )


if __name__ == "__main__":
    for name, arguments in TRUNKS.items():
        make(name, *arguments)
