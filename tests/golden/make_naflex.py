"""Make `transformers/naflex.npz`: every stage of a tiny SigLIP 2 NaFlex, from pictures to features.

Computed by transformers; `tests/model/test_naflex.py` reads the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

FILE = Path(__file__).parent / "transformers" / "naflex.npz"
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "layer_norm_eps": 1e-3,
}
CONFIG = {
    "vision_config": TOWER | {"patch_size": 4, "num_patches": 16},
    "text_config": TOWER | {"vocab_size": 40, "max_position_embeddings": 9},
}
MAX_PATCHES = 25
SIZES = [(20, 20), (31, 9), (7, 40), (50, 37), (3, 60), (1, 1)]  # width, height
INPUT_IDS = [[5, 11, 2, 9, 1, 0, 0, 0, 0], [17, 3, 3, 1, 0, 0, 0, 0, 0]]


def main() -> None:
    torch.manual_seed(0)
    model = transformers.Siglip2Model(transformers.Siglip2Config(**CONFIG)).eval()
    for name, parameter in model.named_parameters():
        value = torch.tensor([2.3]) if "logit" in name else torch.randn_like(parameter) * 0.2
        parameter.data = (parameter + value).detach().half().float()
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SIZES]
    processor = transformers.models.siglip2.Siglip2ImageProcessorPil(
        patch_size=4, max_num_patches=MAX_PATCHES
    )
    inputs = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")
    stages: dict[str, torch.Tensor] = {}
    for tower in ("vision", "text"):
        encoder = getattr(model, f"{tower}_model").encoder
        for i, layer in enumerate(encoder.layers):
            key = f"{tower}.block.{i}"
            layer.register_forward_hook(lambda _m, _i, out, key=key: stages.__setitem__(key, out))
    with torch.no_grad():
        stages["image_features"] = model.get_image_features(**inputs).pooler_output
        stages["text_features"] = model.get_text_features(torch.tensor(INPUT_IDS)).pooler_output
    arrays = {f"weights/{k}": v.half() for k, v in model.state_dict().items()}
    arrays |= {f"stages/{k}": v for k, v in stages.items()}
    arrays |= {f"inputs/{k}": v for k, v in inputs.items()}
    np.savez_compressed(
        FILE,
        config=json.dumps(CONFIG | {"model_type": "siglip2"}),
        processor=json.dumps({"patch_size": 4, "max_num_patches": MAX_PATCHES}),
        version=transformers.__version__,
        input_ids=np.array(INPUT_IDS),
        **{f"pictures/{i}": picture for i, picture in enumerate(pictures)},
        **{key: value.numpy() for key, value in arrays.items()},
    )


if __name__ == "__main__":
    main()
