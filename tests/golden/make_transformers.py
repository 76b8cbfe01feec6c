"""Make tests/golden/transformers/{clip,siglip}.npz: every stage of two tiny transformers models.

Run from the repository root, `python tests/golden/make_transformers.py`, only to add a stage or a
model: files made by a newer transformers prove nothing about an older one. Each file has all that
its test needs, so that the test does not depend on the installed version of transformers:

    config, version     JSON text and the version of transformers that made the file
    weights/NAME        float32, under transformers' own names
    inputs/NAME         pixel_values and input_ids
    stages/NAME         the outputs of `record`

tests/model/test_parity.py also uses `build` and `record` for its live comparisons.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "transformers"

# Small, and different from the published models where two numbers of those are equal: the towers
# differ in all sizes, MLPs are not 4 times as wide, heads not 64 wide, eps is large enough to
# matter, and SigLIP's pictures have pixels at the edges that no patch covers.
CLIP: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 10,
    "vision_config": {
        "hidden_size": 18,
        "intermediate_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 12,
        "patch_size": 4,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-3,
    },
    "text_config": {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 9,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-3,
        "bos_token_id": 38,
        "eos_token_id": 39,
    },
}
SIGLIP: dict[str, Any] = {
    "model_type": "siglip",
    "vision_config": {
        "hidden_size": 18,
        "intermediate_size": 30,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 14,
        "patch_size": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-3,
    },
    "text_config": {
        "vocab_size": 40,
        "hidden_size": 16,
        "projection_size": 18,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 9,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-3,
        "bos_token_id": 38,
        "eos_token_id": 1,
    },
}
INPUT_IDS = (
    (38, 5, 11, 2, 39, 0, 0, 0, 0),
    (38, 7, 39, 39, 39, 39, 39, 39, 39),
    (38, 17, 3, 3, 1, 30, 12, 2, 39),
)


def build(config: dict[str, Any], seed: int = 0, attention: str = "eager") -> Any:
    """Build a transformers model with random weights, none of them 0 or 1, in eval mode."""
    config = dict(config)
    parsed = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    model = transformers.AutoModel.from_config(parsed, attn_implementation=attention)
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        value = rng.standard_normal(parameter.shape)
        if name == "logit_scale":
            value = np.full(parameter.shape, 2.3)
        elif name == "logit_bias":
            value = np.full(parameter.shape, -3.7)
        elif name.endswith("embedding.weight") and "patch" not in name:
            value *= 0.5
        elif parameter.ndim == 1 and name.endswith(".weight"):  # a norm's
            value = 1 + 0.2 * value
        elif parameter.ndim == 1:
            value *= 0.2
        else:
            value /= np.sqrt(np.prod(parameter.shape[1:]))
        parameter.data = torch.tensor(value, dtype=torch.float32)
    return model.eval()


def record(model: Any, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    """Return every stage that a CLIPModel or SiglipModel computes for its loss."""
    stages: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        stages[name] = output

    def keep_input(name: str, module: nn.Module, inputs: Any) -> None:
        stages[name] = inputs[0]

    towers = {"vision": model.vision_model, "text": model.text_model}
    norms = {
        "vision.normed": model.vision_model.post_layernorm,
        "text.normed": model.text_model.final_layer_norm,
    }
    hooks = [norm.register_forward_hook(partial(keep, name)) for name, norm in norms.items()]
    for name, tower in towers.items():
        hooks.append(tower.embeddings.register_forward_hook(partial(keep, f"{name}.embeddings")))
        first_layer = tower.encoder.layers[0]
        hooks.append(
            first_layer.register_forward_pre_hook(partial(keep_input, f"{name}.blocks.in"))
        )
        for index, layer in enumerate(tower.encoder.layers):
            hooks.append(layer.register_forward_hook(partial(keep, f"{name}.blocks.{index}")))
    is_clip = model.config.model_type == "clip"
    text_head = model.text_projection if is_clip else model.text_model.head
    hooks.append(text_head.register_forward_pre_hook(partial(keep_input, "text.pooled")))
    with torch.no_grad():
        output = model(input_ids=input_ids, pixel_values=pixel_values, return_loss=True)
        image = model.get_image_features(pixel_values=pixel_values)
        text = model.get_text_features(input_ids=input_ids)
    for hook in hooks:
        hook.remove()
    return stages | {
        "image_features": image.pooler_output,
        "text_features": text.pooler_output,
        "image_embeds": output.image_embeds,
        "text_embeds": output.text_embeds,
        "logit_scale": model.logit_scale.detach().reshape(()),
        "logits_per_image": output.logits_per_image,
        "logits_per_text": output.logits_per_text,
        "loss": output.loss,
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    input_ids = torch.tensor(INPUT_IDS)
    for config in (CLIP, SIGLIP):
        size = config["vision_config"]["image_size"]
        rng = np.random.default_rng(1)
        pixel_values = torch.tensor(rng.standard_normal((3, 3, size, size)), dtype=torch.float32)
        model = build(config)
        groups = {
            "weights": model.state_dict(),
            "inputs": {"pixel_values": pixel_values, "input_ids": input_ids},
            "stages": record(model, pixel_values, input_ids),
        }
        arrays = {
            f"{group}/{name}": tensor.detach().numpy()
            for group, tensors in groups.items()
            for name, tensor in tensors.items()
        }
        arrays["config"] = np.array(json.dumps(config))
        arrays["version"] = np.array(transformers.__version__)
        np.savez_compressed(FOLDER / f"{config['model_type']}.npz", **arrays)


if __name__ == "__main__":
    main()
