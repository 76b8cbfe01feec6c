"""How the bundled model and its teacher do on sets that were not looked at while they were made.

    python benchmarks/quality/other_sets.py CLONES PACKAGES

CLONES and PACKAGES as for examples/gather_pictures.py, and the npm package
emoji-datasource-twitter. Of photographs those are taken that the recipe did not: another split, or
what its share left over. `learned` says what it had of the same kind: pictures with these names,
other drawings with these names, or pictures without names. An even share of each class, told apart
by the names of all classes in the model's own template; the teacher's text tower is the bundled
model's. Writes results/other_sets.csv, with 95 % intervals.
"""

from __future__ import annotations

import csv
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

from examples.gather_pictures import (
    from_folder,
    from_repository,
    run_git,
    synset_names,
    words,
)
from twotower.evaluate.models import open_model
from twotower.evaluate.sets import LabelledSet
from twotower.evaluate.zero_shot import evaluate_zero_shot
from twotower.inputs.pictures import on_white

ROOT = Path(__file__).parents[2]
TEACHER = "benchmarks.quality.teacher:Teacher"
MOST = 300  # pictures of a set
LARGEST = 640  # pixels of a side, to which larger pictures are shrunk
COLUMNS = ("set", "classes", "pictures", "learned", "model", "top1", "low", "high", "top5")
NAMES, DRAWINGS, NOTHING = "pictures of these names", "other drawings of these names", "no names"
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
    """Files of a clone whose path matches; `taken` is how many of them the recipe learned from."""

    repository: str
    pattern: str
    taken: int = 0

    def read(self, clones: Path) -> Named:
        """Each picture and its name."""
        git, most = clones / self.repository / "repo", self.taken + MOST
        named = from_repository(git, self.pattern, lambda match: [words(match["name"])], most)
        return islice(named, self.taken, None)


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
    with (ROOT / "benchmarks/results/other_sets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, learned, named in every_set(clones, packages):
            labelled = labelled_set(name, named)
            count = len(labelled.keys)
            for model_name, model in models.items():
                result = evaluate_zero_shot(model, labelled)
                shares = (result["top1"], *result["ci95"]["top1"], result["top5"])
                row = (name, len(labelled.classes), count, learned, model_name)
                writer.writerow((*row, *(f"{share:.3f}" for share in shares)))
                print(*row, *(f"{share:.3f}" for share in shares), flush=True)


def every_set(clones: Path, packages: Path) -> Iterator[tuple[str, str, Named]]:
    """Name, what was learned of it, and its pictures."""
    for name, photographs in PHOTOGRAPHS.items():
        yield name, NAMES, photographs.read(clones)
    yield "Tiny ImageNet, validation", NAMES, tiny_imagenet(clones)
    yield "emoji of Twitter", DRAWINGS, emoji(packages / "emoji-datasource-twitter")
    yield "clip art by kind", NOTHING, clip_art(packages / "deb/usr/share/openclipart/png")


def tiny_imagenet(clones: Path) -> Named:
    """By the first word of their synset."""
    git, folder = clones / "seshuad+IMagenet" / "repo", "tiny-imagenet-200/val"
    lines = run_git(git, "show", f"HEAD:{folder}/val_annotations.txt").decode().splitlines()
    synset_of = dict(line.split("\t")[:2] for line in lines)
    names = synset_names(clones)
    pattern = rf"{folder}/images/(?P<file>.*\.JPEG)"
    return from_repository(git, pattern, lambda match: [names[synset_of[match["file"]]][0]], MOST)


def emoji(package: Path) -> Named:
    """Drawn in another style than those that the recipe has, on white."""
    entries = json.loads((package / "emoji.json").read_text())
    some = [one for one in entries if one["category"] in EMOJI and one["has_img_twitter"]]
    for number in np.random.default_rng(0).permutation(len(some))[:MOST]:
        image = Image.open(package / "img/twitter/64" / some[number]["image"])
        file = io.BytesIO()
        image.convert("RGBA").save(file, "PNG")
        yield file.getvalue(), [words(some[number]["short_name"])]


def clip_art(folder: Path) -> Named:
    """By their folder; without those that the recipe shows to the teacher."""
    taken = {content for content, _ in from_folder(folder, "**/*.png", lambda path: [], 1500)}
    named = from_folder(folder, "**/*.png", lambda path: [path.parent.name], 10**6)
    fresh = (one for one in named if one[1][0] in CLIP_ART and one[0] not in taken)
    for content, [kind] in islice(fresh, MOST):
        yield content, [CLIP_ART[kind]]


def labelled_set(name: str, named: Named) -> LabelledSet:
    """The pictures that can be read, and all their names as classes."""
    pictures: list[Image.Image] = []
    names: list[str] = []
    for content, [label] in named:
        # As for the bundled model: OpenAI's preprocessing would show the colours beneath.
        image = on_white(Image.open(io.BytesIO(content)))
        image.thumbnail((LARGEST, LARGEST))
        pictures.append(image)
        names.append(label)
    classes = sorted(set(names))
    labels: NDArray[Any] = np.array([classes.index(one) for one in names])
    keys: Sequence[str] = [str(number) for number in range(len(names))]
    classnames = tuple((one,) for one in classes)
    return LabelledSet(name, pictures, keys, labels, classnames, None, len(keys))


if __name__ == "__main__":
    main()
