"""Make `open_clip_families/*.npz`: every stage of tiny models of more families, by open_clip.

The environment and its reason: `make_open_clip.py`. Weights are those of `named_weights.py`; a file
has the configuration, the names and shapes of all tensors, input_ids, and the outputs of the
modules that `STAGES` names, under our names.
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
import transformers
from named_weights import named_weights
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP

HERE = Path(__file__).with_name("open_clip_families")
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
HUB_TEXT = {"context_length": 12, "hf_model_pretrained": False}
CLIP_TEXT = TEXT | {"vocab_size": 49408}  # for texts in CLIP's vocabulary

CONFIGS = {
    "metaclip2": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": TEXT
        | {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2},
    },
}
CONFIGS |= {
    f"convnext-{form}": {
        "embed_dim": 24,
        "quick_gelu": True,  # without effect on timm's towers
        "vision_cfg": {
            "timm_model_name": "convnext_base",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": form,
            "timm_drop": 0.0,
            "timm_drop_path": 0.1,
            "image_size": 64,
        },
        "text_cfg": CLIP_TEXT,
    }
    for form in ("linear", "mlp")
}
CONFIGS |= {
    "clipa": {
        "embed_dim": 24,
        "vision_cfg": VISION | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": TEXT
        | {
            "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": True},
            "pool_type": "last",
            "no_causal_mask": True,
        },
    },
    "coca": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": VISION
        | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": CLIP_TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": CLIP_TEXT | {"layers": 1, "attn_pooler_heads": 2},
    },
    "roberta": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": VISION,
        "text_cfg": HUB_TEXT
        | {
            "hf_model_name": "roberta-base",
            "hf_tokenizer_name": "roberta-base",
            "hf_pooler_type": "mean_pooler",
        },
    },
    "nllb-siglip": {
        "embed_dim": 40,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "vit_base_patch16_siglip_384",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": HUB_TEXT
        | {
            "hf_model_name": "facebook/nllb-200-distilled-600M",
            "hf_tokenizer_name": "facebook/nllb-200-distilled-600M",
            "hf_proj_type": "linear",
            "hf_pooler_type": "cls_pooler",
        },
    },
    "biomedclip": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": HUB_TEXT
        | {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    },
    "bert-pooler": {
        "embed_dim": 24,
        "vision_cfg": VISION,
        "text_cfg": HUB_TEXT
        | {
            "hf_model_name": "bert-base-uncased",
            "hf_tokenizer_name": "bert-base-uncased",
            "hf_proj_type": "linear",
            "hf_pooler_type": "cls_pooler",
        },
    },
}
TINY_BERT = {
    "vocab_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
}
TINY_HUB = {  # in place of the configurations on the hub
    "roberta-base": transformers.RobertaConfig(
        **TINY_BERT, pad_token_id=1, max_position_embeddings=20, type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    "facebook/nllb-200-distilled-600M": transformers.M2M100Config(
        vocab_size=64, d_model=128, encoder_layers=2, encoder_attention_heads=2,
        encoder_ffn_dim=96, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32,
        max_position_embeddings=40, activation_function="relu", pad_token_id=1,
    ),
    "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract": transformers.BertConfig(
        **TINY_BERT, max_position_embeddings=24, type_vocab_size=2
    ),
    "bert-base-uncased": transformers.BertConfig(
        **TINY_BERT, max_position_embeddings=24, type_vocab_size=2
    ),
}  # fmt: skip
TINY_VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 40, "depth": 2, "num_heads": 2}
TINY_CONVNEXT = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 32)}  # in place of convnext_base
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
CONVNEXT_STAGES = {
    "vision.stem": "visual.trunk.stem",
    "vision.stages.0": "visual.trunk.stages.0",
    "vision.stages.1.blocks.0": "visual.trunk.stages.1.blocks.0",
    "vision.stages.3": "visual.trunk.stages.3",
}
TIMM_STAGES = {
    "vision.blocks.0": "visual.trunk.blocks.0",
    "vision.blocks.1": "visual.trunk.blocks.1",
}
BERT_STAGES = {
    "text.ln_embed": "text.transformer.embeddings",
    "text.blocks.0": "text.transformer.encoder.layer.0",
    "text.blocks.1": "text.transformer.encoder.layer.1",
}
NLLB_STAGES = {
    "text.blocks.0": "text.transformer.layers.0",
    "text.blocks.1": "text.transformer.layers.1",
    "text.ln_final": "text.transformer.layer_norm",
}
COCA_STAGES = {
    "text.blocks.0": "text.transformer.resblocks.0",
    "text.blocks.1": "text.transformer.resblocks.1",
}
STAGES = {
    "metaclip2": VIT_STAGES | TEXT_STAGES,
    "clipa": VIT_STAGES | TEXT_STAGES,
    "coca": VIT_STAGES | COCA_STAGES,
    "roberta": VIT_STAGES | BERT_STAGES,
    "nllb-siglip": TIMM_STAGES | NLLB_STAGES,
    "biomedclip": TIMM_STAGES | BERT_STAGES,
    "bert-pooler": VIT_STAGES | BERT_STAGES,
    "convnext-linear": CONVNEXT_STAGES | TEXT_STAGES,
    "convnext-mlp": CONVNEXT_STAGES,
}


def create_tiny(name: str, **settings) -> torch.nn.Module:
    """Build a trunk for open_clip as `timm.create_model`, in small."""
    settings = {key: value for key, value in settings.items() if key != "pretrained"}
    if name == "convnext_base":
        model = timm.models.convnext.ConvNeXt(**TINY_CONVNEXT, **settings)
        model.default_cfg = {"pool_size": (7, 7)}
        return model
    if "siglip" in name:
        settings |= {"class_token": False}
    model = timm.models.vision_transformer.VisionTransformer(**TINY_VIT, **settings)
    model.default_cfg = {}
    return model


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


def input_ids(length: int, end_id: int, padding: int) -> torch.Tensor:
    """Return ids [3, length] of three lengths."""
    ids = torch.full((3, length), padding)
    for row, end in enumerate((3, 7, length - 1)):
        ids[row, :end] = torch.randint(4, 60, (end,))
        ids[row, 0], ids[row, end] = 3, end_id
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
    size = config["vision_cfg"]["image_size"]
    pixels = named_weights({"pixel_values": (2, 3, size, size)})["pixel_values"]
    clip_ids = config["text_cfg"].get("vocab_size") == 49408
    length = config["text_cfg"].get("context_length", 12)
    padding = 1 if name in ("metaclip2", "roberta", "nllb-siglip") else 0
    ids = input_ids(length, 49407 if clip_ids else 2, padding)
    outputs["vision"] = model.encode_image(torch.from_numpy(pixels), normalize=False)
    outputs["text"] = model.encode_text(ids, normalize=False)
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(
        HERE / f"{name}.npz",
        config=json.dumps(config),
        shapes=json.dumps(shapes),
        version=open_clip.__version__,
        input_ids=ids.numpy(),
        **{f"stages/{key}": value.numpy() for key, value in outputs.items()},
    )


if __name__ == "__main__":
    timm.create_model = create_tiny
    open_clip.hf_model.AutoConfig.from_pretrained = TINY_HUB.__getitem__
    for name in sys.argv[1:] or CONFIGS:
        make(name)
