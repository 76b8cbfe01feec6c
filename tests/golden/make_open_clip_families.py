"""Make `open_clip_families/*.npz`: every stage of tiny models of more families, by open_clip.

The environment and its reason: `make_open_clip.py`. Weights are those of `named_weights.py`; a file
has the configuration, the names and shapes of all tensors, inputs, and the outputs of the modules
that `STAGES` names, under our names.
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
from named_weights import named_weights
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP

HERE = Path(__file__).with_name("open_clip_families")
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}

CONFIGS = {
    "metaclip2": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": TEXT
        | {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2},
    },
}
# our module -> open_clip's
VIT_STAGES = {
    "vision.ln_pre": "visual.ln_pre",
    "vision.blocks.0": "visual.transformer.resblocks.0",
    "vision.blocks.1": "visual.transformer.resblocks.1",
}
TEXT_STAGES = {
    "text.blocks.0": "transformer.resblocks.0",
    "text.blocks.1": "transformer.resblocks.1",
    "text.ln_final": "ln_final",
}
STAGES = {"metaclip2": VIT_STAGES | TEXT_STAGES}


def build(config: dict) -> torch.nn.Module:
    settings = dict(config)
    custom = settings.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "multimodal_cfg" in settings:
        return CoCa(**settings)
    return (CustomTextCLIP if custom else CLIP)(**settings)


def fill(model: torch.nn.Module) -> dict[str, list[int]]:
    """Set named weights; return the shapes of the tensors."""
    tensors = model.state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name, array in named_weights(shapes).items():
        tensors[name].copy_(torch.from_numpy(array))
    return shapes


def input_ids(length: int) -> torch.Tensor:
    """Return ids [3, length] that begin with 3 and end with 2; 1 is padding."""
    ids = torch.ones(3, length, dtype=torch.long)
    for row, end in enumerate((3, 7, length - 1)):
        ids[row, :end] = torch.randint(4, 60, (end,))
        ids[row, 0], ids[row, end] = 3, 2
    return ids


@torch.no_grad()
def make(name: str) -> None:
    torch.manual_seed(7)
    config = CONFIGS[name]
    model = build(config).eval()
    shapes = fill(model)
    outputs: dict[str, torch.Tensor] = {}
    for ours, theirs in STAGES[name].items():
        model.get_submodule(theirs).register_forward_hook(
            lambda _m, _i, out, key=ours: outputs.__setitem__(
                key, out[0] if isinstance(out, tuple) else out
            )
        )
    pixel_values = torch.randn(
        2, 3, config["vision_cfg"]["image_size"], config["vision_cfg"]["image_size"]
    )
    ids = input_ids(config["text_cfg"].get("context_length", 12))
    outputs["vision"], outputs["text"] = model.encode_image(pixel_values), model.encode_text(ids)
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=json.dumps(config),
        shapes=json.dumps(shapes),
        version=open_clip.__version__,
        pixel_values=pixel_values.numpy(),
        input_ids=ids.numpy(),
        **{f"stages/{key}": value.numpy() for key, value in outputs.items()},
    )


if __name__ == "__main__":
    for name in sys.argv[1:] or CONFIGS:
        make(name)
