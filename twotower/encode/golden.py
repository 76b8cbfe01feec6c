"""Golden vectors of a model directory, and the three identities of a model.

Golden vectors are the embeds of a few pictures and texts, stored with the model. Silent errors
(another activation, padding, resize or text cleaning) look like a slightly worse model; compared
with golden vectors they show at once.

Three functions identify a model: `golden_hash` is short and quick, for files that belong to a
model; `fingerprint` reads all that decides its vectors; `image_fingerprint` reads what decides
those of pictures, for libraries, whose vectors stay valid with another text tower.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from twotower.arrays import Float32Array, UInt8Array
from twotower.errors import VerificationError
from twotower.model.config import CONFIG_FILE, read_config
from twotower.model.weight_files import stored_tensors

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

GOLDEN_FILE = "golden.safetensors"
# Settings that are part of a fingerprint only where they are in use, so that those of older models
# stay the same.
LATER_FIELDS = (
    ("vision", "no_ln_pre"),
    ("vision", "patch_bias"),
    ("vision", "pool_heads"),
    ("text", "projection"),
    ("text", "class_token"),
    ("text", "lexicon_size"),
    ("text", "lexicon_rank"),
    ("tokenizer", "lexicon"),
)
GOLDEN_COSINE = 0.9999  # a model with a lower one is considered changed

# `fingerprint` of earlier bundled models -> `image_fingerprint` of their image tower
EARLIER_MODELS = {
    "9b4e5fbf95d39765b80d2bcf1482cbf68306bde266217eabc02c15f57f6c8500": (
        "3b1b0a5fd249080657dcf1c096a1ebb8b81b816113d0bf5c705737aa1baceafe"
    ),
}

# Each covers something that fails in practice: cleaning, case, entities, mojibake, punctuation,
# underscores, length (padding), characters beyond ASCII.
GOLDEN_TEXTS = (
    "a photo of a cat.",
    "Two DOGS playing &amp; running on the beach, at sunset!",
    "snake_case, schÃ¶n and don't",
    "a red car",
    "an overexposed picture of a very old wooden house at the end of a long street in the rain, "
    "with two people under one umbrella and a dog that waits for them",
    "ein Foto von Äpfeln 🍎",
)


@dataclass(frozen=True)
class Golden:
    """Pictures (uint8 [H, W, 3]) and texts, with image_embeds and text_embeds [n, embed_dim]."""

    pictures: list[UInt8Array]
    texts: list[str]
    image_embeds: Float32Array
    text_embeds: Float32Array


def golden_pictures() -> list[UInt8Array]:
    """Draw three pictures that are sensitive to resizing, cropping and the order of colours."""
    wide, tall, small = _waves(120, 171), _waves(163, 111), _waves(40, 31)
    wide[30:80, 40:60] = (220, 30, 30)
    tall[::7] = (20, 40, 230)
    small[:, 15:] = 255 - small[:, 15:]
    return [wide, tall, small]


def _waves(height: int, width: int) -> UInt8Array:
    """Draw smooth waves [height, width, 3] with a different wavelength in each channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + 4 * channel)) * np.cos(y / (9 - 2 * channel)) for channel in range(3)]
    return np.asarray(127.5 + 127 * np.stack(waves, axis=-1), np.uint8)


def write_golden(golden: Golden, directory: Path) -> None:
    """Write `golden.safetensors`, with the texts in its metadata."""
    arrays = {f"picture_{i}": picture for i, picture in enumerate(golden.pictures)}
    embeds = {"image_embeds": golden.image_embeds, "text_embeds": golden.text_embeds}
    texts = json.dumps(golden.texts)
    save_file({**arrays, **embeds}, directory / GOLDEN_FILE, metadata={"texts": texts})


def read_golden(directory: Path) -> Golden:
    """Read the golden vectors of a model directory.

    Raises:
        VerificationError: the file is missing or damaged.
    """
    path = directory / GOLDEN_FILE
    try:
        with safe_open(path, framework="np") as file:
            image_embeds = file.get_tensor("image_embeds")
            pictures = [file.get_tensor(f"picture_{i}") for i in range(len(image_embeds))]
            texts = json.loads(file.metadata()["texts"])
            return Golden(pictures, texts, image_embeds, file.get_tensor("text_embeds"))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            path,
            f"golden vectors are missing or damaged ({error}), so the model cannot be checked",
            "convert or download it again",
        ) from None


def golden_hash(directory: Path) -> str:
    """Return the short identity of a model: 16 hex digits of the SHA-256 of its golden vectors.

    Other weights or another preprocessing have other golden vectors, and an encoder that does not
    reproduce its golden vectors does not start. Stored in calibrations and answer heads, and in the
    names of cached tag embeds.
    """
    return hashlib.sha256((directory / GOLDEN_FILE).read_bytes()).hexdigest()[:16]


def fingerprint(directory: Path) -> str:
    """Return the full identity of a model: 64 hex digits of a SHA-256.

    It covers weights, architecture, preprocessing and tokenizer, also those of a text tower in
    another folder; names, the templates and the calibration decide no vector and are left out.
    Stored in results of evaluations, runs of fine-tuning and caches of embeds.
    """
    config = asdict(read_config(directory))
    del config["name"], config["templates"], config["text_folder"]
    for section, field in LATER_FIELDS:
        if not config[section].get(field):
            config[section].pop(field, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in _identifying_files(directory):
        if path.name != CONFIG_FILE:  # its relevant fields are in `config`
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def image_fingerprint(directory: Path) -> str:
    """Return the identity of a model's image tower: 64 hex digits of a SHA-256.

    It covers what decides image_embeds: weights and architecture of the tower, and preprocessing.
    Stored in catalogs of libraries.
    """
    config, weights = read_config(directory), directory / "model.safetensors"
    settings = [config.embed_dim, _settings(config.vision), _settings(config.preprocess)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    with weights.open("rb") as file:
        for name, tensor in sorted(stored_tensors(weights).items()):
            if name.startswith("vision."):
                digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode())
                file.seek(tensor.offset)
                digest.update(file.read(tensor.length))
    return digest.hexdigest()


def has_image_tower(directory: Path, identity: str) -> bool:
    """Return True if a model has the image tower that a library was indexed with.

    Args:
        identity: an `image_fingerprint`, or the `fingerprint` that catalogs stored earlier.
    """
    current = image_fingerprint(directory)
    return current in (identity, EARLIER_MODELS.get(identity)) or fingerprint(directory) == identity


def file_facts(directory: Path) -> str:
    """Return names, sizes and modification times of the files behind `fingerprint`, as JSON.

    If they are unchanged, the fingerprints are too, and need not be computed.
    """
    stats = [(path.name, path.stat()) for path in _identifying_files(directory)]
    return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def _settings(config: DataclassInstance) -> dict[str, Any]:
    """Return the settings of a part of a model, without optional ones that have their default."""
    return {
        item.name: getattr(config, item.name)
        for item in fields(config)
        if "optional" not in item.metadata or getattr(config, item.name) != item.default
    }


def _identifying_files(directory: Path) -> list[Path]:
    """Return the weights, the vocabulary and the configuration; of a shared text tower, too."""
    folders = dict.fromkeys([directory, read_config(directory).text_directory(directory)])
    return [path for folder in folders for path in _weights_and_settings(folder)]


def _weights_and_settings(folder: Path) -> list[Path]:
    suffixes = (".json", ".txt", ".model")
    settings = [
        path
        for path in folder.iterdir()
        if path.suffix in suffixes and path.name != "calibration.json"
    ]
    return sorted([*settings, folder / "model.safetensors"])
