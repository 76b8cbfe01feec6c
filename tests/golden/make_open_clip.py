"""Make `open_clip/*.npz`: weights, inputs and every stage of tiny models, computed by open_clip.

open_clip needs torchvision, whose PyPI build imports beside a CPU torch only if two of its
operators are declared first, as below; so this runs in a separate environment:

    pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 timm==1.0.31 \
        open_clip_torch==3.3.0 ftfy regex wcwidth safetensors huggingface_hub ...
    python tests/golden/make_open_clip.py

With a directory that `write_open_clip` wrote as argument, it loads that directory strictly.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip
import timm
from open_clip.loss import ClipLoss, SigLipLoss
from open_clip.transformer import TextTransformer

HERE = Path(__file__).with_name("open_clip")
TEXT = {"context_length": 16, "vocab_size": 96, "width": 32, "heads": 2, "layers": 2}
CONFIGS = {
    "vit": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 40,
            "head_width": 20,
            "patch_size": 8,
            "mlp_ratio": 2.5,
        },
        "text_cfg": TEXT,
    },
    "vit-gelu": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 40,
            "head_width": 20,
            "patch_size": 8,
            "mlp_ratio": 4.3637,
        },
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": TEXT,
    },
}


def stages(model: torch.nn.Module, pixel_values: torch.Tensor, ids: torch.Tensor) -> dict:
    """Return the outputs of every block, from hooks, and those of the model."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(_module, _inputs, output):
            outputs[name] = output.detach()

        return hook

    visual = model.visual
    if hasattr(visual, "transformer"):
        visual.ln_pre.register_forward_hook(keep("vision.embeddings"))
        for i, block in enumerate(visual.transformer.resblocks):
            block.register_forward_hook(keep(f"vision.block.{i}"))
    else:
        visual.avgpool.register_forward_hook(keep("vision.embeddings"))
        for i in range(4):
            getattr(visual, f"layer{i + 1}").register_forward_hook(keep(f"vision.block.{i}"))
    for i, block in enumerate(model.transformer.resblocks):
        block.register_forward_hook(keep(f"text.block.{i}"))
    model.ln_final.register_forward_hook(keep("text.final"))
    outputs["image_features"] = model.encode_image(pixel_values)
    outputs["text_features"] = model.encode_text(ids)
    image_embeds, text_embeds, scale = model(pixel_values, ids)
    outputs |= {"image_embeds": image_embeds, "text_embeds": text_embeds}
    outputs["logits_per_image"] = scale * image_embeds @ text_embeds.T
    outputs["clip_loss"] = ClipLoss()(image_embeds, text_embeds, scale)
    bias = torch.tensor(-10.0)
    outputs["siglip_loss"] = SigLipLoss()(image_embeds, text_embeds, scale, bias)
    return outputs


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    pixel_values = torch.randn(3, 3, size, size)
    ids = torch.zeros(3, 16, dtype=torch.long)
    for row, length in enumerate((4, 9, 15)):
        ids[row, 1:length] = torch.randint(1, 90, (length - 1,))
        ids[row, 0], ids[row, length] = 94, 95
    return pixel_values, ids


def shake(model: torch.nn.Module) -> None:
    """Set random weights that are exact in float16, so that the file is small."""
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.copy_(1 + 0.3 * torch.rand_like(tensor))
        elif tensor.is_floating_point() and name not in ("logit_scale", "attn_mask"):
            tensor.add_(0.1 * torch.randn_like(tensor))
        if tensor.is_floating_point():
            tensor.copy_(tensor.half())


def write(name: str, config: dict, model: torch.nn.Module, arrays: dict) -> None:
    weights = {f"weights/{k}": v for k, v in model.state_dict().items() if "attn_mask" not in k}
    weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=json.dumps(config),
        version=open_clip.__version__,
        **{key: value.numpy() for key, value in (weights | arrays).items()},
    )


@torch.no_grad()
def make_clip(name: str, config: dict) -> None:
    torch.manual_seed(7)
    model = open_clip.CLIP(**config).eval()
    shake(model)
    pixel_values, ids = inputs(config["vision_cfg"]["image_size"])
    outputs = stages(model, pixel_values, ids)
    arrays = {f"stages/{k}": v for k, v in outputs.items()}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}
    tree = {"model_cfg": config, "preprocess_cfg": preprocess}
    write(name, tree, model, arrays | {"pixel_values": pixel_values, "input_ids": ids})


@torch.no_grad()
def make_siglip() -> None:
    """Combine timm's image tower and open_clip's text tower, as open_clip does for SigLIP."""
    torch.manual_seed(7)
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=40, depth=2, num_heads=2, mlp_ratio=2,
        class_token=False, global_pool="map", num_classes=0,
    )  # fmt: skip
    text = TextTransformer(
        context_length=16, vocab_size=96, width=32, heads=2, layers=2, output_dim=40,
        no_causal_mask=True, pool_type="last", proj_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    model.visual.trunk, model.text = trunk, text
    model.logit_scale = torch.nn.Parameter(torch.tensor(2.3))
    model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))
    model.eval()
    shake(model)
    outputs: dict[str, torch.Tensor] = {}
    for tower, blocks in (("vision", trunk.blocks), ("text", text.transformer.resblocks)):
        for i, block in enumerate(blocks):
            block.register_forward_hook(
                lambda _m, _i, out, key=f"{tower}.block.{i}": outputs.__setitem__(key, out)
            )
    pixel_values, ids = inputs(32)
    outputs["image_features"], outputs["text_features"] = trunk(pixel_values), text(ids)
    arrays = {f"stages/{k}": v for k, v in outputs.items()}
    write("siglip", {}, model, arrays | {"pixel_values": pixel_values, "input_ids": ids})


def load(directory: str) -> None:
    """Load a directory of `write_open_clip` with open_clip, which checks every tensor."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    torch.manual_seed(0)
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    with torch.no_grad():
        print(model.encode_image(torch.ones(1, 3, size, size))[0, :4].tolist())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        load(sys.argv[1])
    else:
        for name, config in CONFIGS.items():
            make_clip(name, config)
        make_siglip()
