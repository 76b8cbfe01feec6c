"""Test the bundled model and its teacher on sets that were not used in their development.

    python benchmarks/quality/other_sets.py CLONES PACKAGES

CLONES and PACKAGES are those of examples/gather_pictures.py, with the npm package
emoji-datasource-twitter. Photographs are those that the recipe leaves out: another split, or the
remainder of its share. The column `seen in training` tells which similar pictures it was trained
on: pictures of these names, other drawings of these names, or pictures without names. An equal
number of each class is classified by the names of all classes in the model's own template; the
teacher uses the bundled model's text tower. Writes results/other_sets.csv, with 95 % intervals.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.table import write_results
from examples.gather_pictures import (
    read_folder,
    read_repository,
    run_git,
    synset_names,
    to_words,
)
from twotower.evaluate.models import open_model
from twotower.evaluate.sets import LabelledSet
from twotower.evaluate.zero_shot import evaluate_zero_shot
from twotower.inputs.pictures import on_white

TEACHER = "benchmarks.quality.teacher:Teacher"
PICTURES = 300  # of each set
MAX_SIDE = 640  # pixels; larger pictures are reduced
COLUMNS = ("set", "classes", "pictures", "seen in training", "model", "top1", "low", "high", "top5")
NAMES, DRAWINGS, UNNAMED = "pictures of these names", "other drawings of these names", "no names"
EMOJI = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places")
CLIP_ART = {
    "birds": "bird",
    "bugs": "insect",
    "fish": "fish",
    "mammals": "mammal",
    "homes": "house",
    "hardware": "computer hardware",
    "beverages": "drink",
    "breads_and_carbs": "bread",
    "desserts": "dessert",
    "fruit": "fruit",
    "meats_and_eggs": "meat",
    "bodypart": "body part",
    "clothing": "clothing",
    "smilies": "smiley face",
    "stickmen": "stick figure",
    "flowers": "flower",
    "music": "musical instrument",
    "sports": "sport",
    "toys": "toy",
    "weapons": "weapon",
    "boating": "boat",
    "roadsigns": "road sign",
    "vehicles": "vehicle",
    "flags": "flag",
    "clocks": "clock",
    "jigsaw": "jigsaw puzzle",
    "arrows": "arrow",
}

Named = Iterable[tuple[bytes, list[str]]]


@dataclass(frozen=True)
class Photographs:
    """Files of a clone whose path matches.

    Attributes:
        used: number of them that the recipe was trained on.
    """

    repository: str
    pattern: str
    used: int = 0

    def read(self, clones: Path) -> Named:
        """Yield the other pictures with their names."""
        git, count = clones / self.repository / "repo", self.used + PICTURES
        named = read_repository(git, self.pattern, lambda match: [to_words(match["name"])], count)
        return islice(named, self.used, None)


PHOTOGRAPHS = {
    "CIFAR-100, test": Photographs(
        "cyizhuo+CIFAR-100-dataset", r"test/(?P<name>\w+)/\w+_s_\d+\.png"
    ),
    "instruments, test": Photographs(
        "aizadaaskar+dl-homework", r"(?:test|valid)/(?P<name>[^/]+)/.*\.jpg"
    ),
    "groceries, test": Photographs(
        "marcusklasson+GroceryStoreDataset", r"dataset/(?:test|val)/.*/(?P<name>[^/]+)/[^/]+\.jpg"
    ),
    "clothing, test": Photographs(
        "alexeygrigorev+clothing-dataset-small", r"(?:test|validation)/(?P<name>[^/]+)/.*\.jpg"
    ),
    "sports": Photographs(
        "jurjsorinliviu+Sports-Type-Classifier", r"data/(?P<name>[^/]+)/.*\.jpg", 660
    ),
    "flowers": Photographs(
        "martinwestin+flower_classification", r"flowers/(?P<name>[^/]+)/.*\.jpg", 150
    ),
    "materials": Photographs(
        "congduytran12+Trash-Classification-", r"dataset-resized/(?P<name>[^/]+)/.*\.jpg", 150
    ),
    "textures": Photographs("pan8915+DeepTexture", r"images/(?P<name>[^/]+)/.*\.jpg", 200),
}


def main() -> None:
    clones, packages = map(Path, sys.argv[1:3])
    models = {
        "twotower-small": open_model(None),
        "its teacher": open_model(TEACHER),
    }
    rows: list[tuple[object, ...]] = []
    for name, training, named in read_sets(clones, packages):
        labelled = make_set(name, named)
        description = (name, len(labelled.classes), len(labelled.keys), training)
        for model_name, model in models.items():
            result = evaluate_zero_shot(model, labelled)
            shares = (result["top1"], *result["ci95"]["top1"], result["top5"])
            rows.append((*description, model_name, *(f"{share:.3f}" for share in shares)))
    write_results("other_sets.csv", COLUMNS, rows)


def read_sets(clones: Path, packages: Path) -> Iterator[tuple[str, str, Named]]:
    """Yield the name of each set, the similar pictures in training, and its pictures."""
    for name, photographs in PHOTOGRAPHS.items():
        yield name, NAMES, photographs.read(clones)
    yield "Tiny ImageNet, validation", NAMES, read_tiny_imagenet(clones)
    yield "emoji of Twitter", DRAWINGS, read_emoji(packages / "emoji-datasource-twitter")
    yield "clip art by kind", UNNAMED, read_clip_art(packages / "deb/usr/share/openclipart/png")


def read_tiny_imagenet(clones: Path) -> Named:
    """Yield pictures with the main word of their synset."""
    git, folder = clones / "seshuad+IMagenet" / "repo", "tiny-imagenet-200/val"
    lines = run_git(git, "show", f"HEAD:{folder}/val_annotations.txt").decode().splitlines()
    synset_of = dict(line.split("\t")[:2] for line in lines)
    names = synset_names(clones)
    pattern = rf"{folder}/images/(?P<file>.*\.JPEG)"
    return read_repository(
        git, pattern, lambda match: [names[synset_of[match["file"]]][0]], PICTURES
    )


def read_emoji(package: Path) -> Named:
    """Yield drawings in another style than those of the recipe."""
    entries = [
        entry
        for entry in json.loads((package / "emoji.json").read_text())
        if entry["category"] in EMOJI and entry["has_img_twitter"]
    ]
    for number in np.random.default_rng(0).permutation(len(entries))[:PICTURES]:
        image = Image.open(package / "img/twitter/64" / entries[number]["image"])
        file = io.BytesIO()
        image.convert("RGBA").save(file, "PNG")
        yield file.getvalue(), [to_words(entries[number]["short_name"])]


def read_clip_art(folder: Path) -> Named:
    """Yield clip art with the names of its folders, without that of the recipe."""
    used = {content for content, _ in read_folder(folder, "**/*.png", lambda path: [], 1500)}
    named = read_folder(folder, "**/*.png", lambda path: [path.parent.name], 10**6)
    unused = (
        (content, kinds) for content, kinds in named if kinds[0] in CLIP_ART and content not in used
    )
    for content, [kind] in islice(unused, PICTURES):
        yield content, [CLIP_ART[kind]]


def make_set(name: str, named: Named) -> LabelledSet:
    """Return the set of these pictures, with all their names as classes."""
    pictures: list[Image.Image] = []
    names: list[str] = []
    for content, [label] in named:
        # As for the bundled model: OpenAI's preprocessing would show the colours beneath.
        image = on_white(Image.open(io.BytesIO(content)))
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        pictures.append(image)
        names.append(label)
    classes = sorted(set(names))
    labels: NDArray[Any] = np.array([classes.index(label) for label in names])
    keys: Sequence[str] = [str(number) for number in range(len(names))]
    classnames = tuple((label,) for label in classes)
    return LabelledSet(name, pictures, keys, labels, classnames, None, len(keys))


if __name__ == "__main__":
    main()
