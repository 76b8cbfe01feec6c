"""The text tower of the bundled model: training MiniLM beyond sentences.

Names learn the vectors of `word_vectors.py`, and captions the teacher's features of their pictures.
A picture must be nearer to its own name than to others. There are two rounds:

1. The encoder is trained, except for its word embeddings, so that words without training data keep
   their position among similar words.
2. A hidden layer after it is trained alone, on the pooled features of the encoder.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.twotower_small.hypernyms import find_hypernyms, sampling_probabilities
from recipes.twotower_small.losses import (
    PRECISION,
    Pictures,
    RecipeConfig,
    Words,
    cosine_steps,
    encode_batches,
    fill_template,
    label_loss,
    name_vector_loss,
    pair_loss,
    sentence_encoder,
)
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.arrays import BoolArray, Int64Array
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP

CAPTION_WEIGHT, NAME_WEIGHT = 0.7, 0.5  # of these losses; 1 for the vectors of names
ENCODER_SCALE, HIDDEN_SCALE = 40.0, 60.0  # initial logit scales between texts and pictures
# In the second round the pooled features get noise of so many standard deviations, because names
# would otherwise be memorised and fit pictures worse. This share of the change is kept, which is
# better on both training and other data (WiSE-FT; Wortsman et al. 2022).
NOISE, DROPOUT, KEPT_SHARE = 0.5, 0.2, 0.25
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
# Templates of names in the second round, and their probabilities.
FORMS = ("{}", "a photo of a {}.", "a {}", "the {}", "a photo of {}.")
FORM_PROBABILITIES = (0.4, 0.3, 0.1, 0.1, 0.1)

logger = logging.getLogger(__name__)


def train_text(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    wordnet: WordNet,
    config: RecipeConfig,
) -> None:
    """Train the text tower in both rounds."""
    initialize_projection(model, tokenizer, words)
    train_encoder(model, tokenizer, words, pictures, config)
    train_hidden(model, tokenizer, words, pictures, wordnet, config)


def train_encoder(
    model: CLIP, tokenizer: Tokenizer, words: Words, pictures: Pictures, config: RecipeConfig
) -> None:
    """Train the encoder and the projection, without the hidden layer."""
    text: Any = model.text
    text.token_embed.requires_grad_(False)
    body = [text.pos_embed, *text.ln_embed.parameters(), *text.blocks.parameters()]
    log_scale = torch.tensor(math.log(ENCODER_SCALE), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": body, "lr": 2e-4},
            {"params": [*text.proj.parameters(), log_scale], "lr": 1e-3},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    choices, numbers = random.Random(config.seed), np.random.default_rng(config.seed)
    centre = words.vectors[: words.known_count].mean(dim=0)
    probabilities = words.weights / words.weights.sum()
    captioned, named = captioned_and_named(pictures, config)
    width = text.token_embed.embedding_dim

    def encode(input_ids: Tensor) -> Tensor:
        return F.linear(text.pool(input_ids), text.proj.weight[:, :width])

    for step in cosine_steps(config.text_steps, optimizer):
        chosen = numbers.choice(len(words.names), config.words, replace=False, p=probabilities)
        prompts = [fill_template(choices.choice(TEMPLATES), words.names[row]) for row in chosen]
        third = config.captions // 3
        rows = np.concatenate(
            [numbers.choice(captioned, config.captions - third), numbers.choice(named, third)]
        )
        captions = [choices.choice(pictures.captions[row]) for row in rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            word_features = encode_batches(encode, tokenizer, prompts).float()
            caption_features = encode_batches(encode, tokenizer, captions).float()
        weights = torch.from_numpy(words.weights[chosen]).float()
        word_loss = name_vector_loss(word_features, words.vectors[chosen], centre, weights)
        caption_loss = pair_loss(caption_features, pictures.features[rows], log_scale, captions)
        loss = word_loss + CAPTION_WEIGHT * caption_loss
        loss.backward()
        nn.utils.clip_grad_norm_(text.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            logger.info("text step %d: words %.3f, captions %.3f", step, word_loss, caption_loss)


def initialize_projection(model: CLIP, tokenizer: Tokenizer, words: Words) -> None:
    """Set the projection by ridge regression from the untrained encoder's features."""
    vectors = sentence_encoder(model, tokenizer)(words.names)
    weighted = vectors * words.weights[:, None]
    gram = vectors.T @ weighted + 2.0 * np.eye(vectors.shape[1])
    solution = np.linalg.solve(gram, weighted.T @ words.vectors.numpy())
    projection: Any = model.text.proj
    with torch.no_grad():
        projection.weight.zero_()
        projection.weight[:, : len(gram)] = torch.from_numpy(solution.T)


def train_hidden(
    model: CLIP,
    tokenizer: Tokenizer,
    words: Words,
    pictures: Pictures,
    wordnet: WordNet,
    config: RecipeConfig,
) -> None:
    """Train the hidden layer on pooled features, which are computed once for each text."""
    text: Any = model.text
    encode = sentence_encoder(model, tokenizer)

    def encode_forms(names: Sequence[str]) -> Tensor:
        rows = [encode([fill_template(form, name) for name in names]) for form in FORMS]
        return torch.from_numpy(np.stack(rows, axis=1))  # [n, forms, width]

    captioned, named = captioned_and_named(pictures, config)
    hypernyms, labels = find_hypernyms(words, wordnet, [pictures.captions[row] for row in named])
    word_forms, name_forms = encode_forms(words.names), encode_forms(hypernyms.names)
    captions = encode([caption for row in captioned for caption in pictures.captions[row]])
    caption_features = torch.from_numpy(captions).unflatten(
        0, (len(captioned), -1)
    )  # [c, 5, width]
    logger.info(
        "%d words, %d captions, %d pictures with names", len(word_forms), len(captions), len(named)
    )

    before = text.proj.weight.detach().clone()
    mean, deviation = word_forms[:, 0].mean(dim=0), word_forms[:, 0].std(dim=0)
    scales = torch.full((2,), math.log(HIDDEN_SCALE), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*text.hidden.parameters()], "lr": 2e-3, "weight_decay": 0.05},
            {"params": [text.proj.weight, scales], "lr": 1e-3, "weight_decay": 0.02},
        ],
        betas=(0.9, 0.98),
    )
    numbers = np.random.default_rng(config.seed)
    centre = words.vectors[: words.known_count].mean(dim=0)
    probabilities = np.sqrt(words.weights) / np.sqrt(words.weights).sum()
    picture_probabilities = sampling_probabilities(labels)

    def project(pooled: Tensor) -> Tensor:
        noisy = (pooled - mean) / deviation + NOISE * torch.randn_like(pooled)
        hidden = F.dropout(F.gelu(text.hidden(noisy)), DROPOUT)
        features: Tensor = text.proj(torch.cat([noisy * deviation + mean, hidden], dim=1))
        return features

    def project_random_forms(forms: Tensor, rows: Any) -> Tensor:
        columns = numbers.choice(len(FORMS), len(rows), p=FORM_PROBABILITIES)
        return project(forms[rows, columns])

    def name_loss() -> Tensor:
        sample = numbers.choice(len(named), min(384, len(named)), p=picture_probabilities)
        true_names = labels[sample]
        sampled = torch.tensor([hypernyms.sample(int(row), numbers) for row in true_names])
        count = len(name_forms)
        negatives = torch.from_numpy(numbers.choice(count, min(1200, count), replace=False))
        candidates, columns = torch.cat([true_names, sampled, negatives]).unique(
            return_inverse=True
        )
        columns = columns[len(true_names) : 2 * len(true_names)]  # those of `sampled`
        embeds = F.normalize(project_random_forms(name_forms, candidates), dim=-1)
        all_embeds = torch.zeros(count, embeds.shape[1])
        all_embeds[candidates] = embeds.detach()
        acceptable = hypernyms.acceptable(true_names, sampled, all_embeds, candidates)
        features = pictures.features[named[sample]]
        scale = scales[1].exp().clamp(max=100)
        return label_loss(features, embeds, columns, acceptable, scale)

    for step in cosine_steps(config.hidden_steps, optimizer):
        count = len(word_forms)
        chosen = numbers.choice(count, min(1024, count), replace=False, p=probabilities)
        weights = torch.from_numpy(words.weights[chosen]).float()
        word_features = project_random_forms(word_forms, chosen)
        word_loss = name_vector_loss(word_features, words.vectors[chosen], centre, weights)
        count = len(caption_features)
        rows = numbers.choice(count, min(384, count), replace=False)
        texts = caption_features[rows, numbers.integers(0, caption_features.shape[1], len(rows))]
        features = pictures.features[captioned[rows]]
        caption_loss = pair_loss(project(texts), features, scales[0], [str(row) for row in rows])
        label = name_loss()
        (word_loss + CAPTION_WEIGHT * caption_loss + NAME_WEIGHT * label).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            logger.info(
                "hidden step %d: words %.3f, captions %.3f, names %.3f",
                *(step, word_loss, caption_loss, label),
            )
    with torch.no_grad():
        text.proj.weight.lerp_(before, 1 - KEPT_SHARE)
        # The tower has no `mean` and `deviation`; fold them into its weights.
        text.hidden.weight /= deviation
        text.hidden.bias -= text.hidden.weight @ mean


def captioned_and_named(pictures: Pictures, config: RecipeConfig) -> tuple[Int64Array, Int64Array]:
    """Return the rows of pictures with sentences, and of those with names that are not held out."""
    named = ~pictures.described & ~_has_name(pictures.captions, config.held_out)
    return np.flatnonzero(pictures.described), np.flatnonzero(named)


def _has_name(captions: Sequence[tuple[str, ...]], names: frozenset[str]) -> BoolArray:
    """Return which pictures [n] have a caption among `names`."""
    return np.array([any(plain(text) in names for text in texts) for texts in captions], bool)
