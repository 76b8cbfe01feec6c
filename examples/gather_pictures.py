"""Gather the pictures that the bundled model learns from, as tars with their names.

    python examples/gather_pictures.py CLONES PACKAGES DATA DESTINATION

Writes DESTINATION/pictures, which the teacher looks at, and DESTINATION/named, of which only the
names are learned.

CLONES holds clones of public repositories as OWNER+NAME/repo, PACKAGES the unpacked Debian and npm
packages, DATA the folders `flickr8k-train` and `imagenet-sample-1k`, and the dev sets
`flickr8k-val` and `cifar10-dev`, whose pictures and near copies are left out; docs/model-card.md
lists all of them with their terms. Of each set an even share is taken, so that no kind of picture
outweighs the others. Nothing of it is part of the project.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.inputs.pictures import open_picture

SAME = 8  # of 256 bits: copies in another size or compression differ in fewer
Pictures = Iterator[tuple[bytes, list[str]]]  # what is in the file, and the names of what it shows


def main() -> None:
    clones, packages, data, destination = map(Path, sys.argv[1:5])
    dev = dev_hashes(data)
    for name, one in sets(clones, packages, data).items():
        for folder, most in (("pictures", one.looked_at), ("named", one.named)):
            path = destination / folder / f"{name}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            if most and not path.exists():
                print(path, *write_shard(path, one.read(most), dev))


@dataclass(frozen=True)
class Set:
    """A kind of pictures: `read(most)` gives them, an even share of each label."""

    read: Callable[[int], Pictures]
    looked_at: int  # by the teacher
    named: int = 0  # learned by their names alone


def sets(clones: Path, packages: Path, data: Path) -> dict[str, Set]:
    """Name of the set -> its pictures."""
    wordnet = synset_names(clones)

    def repository(
        name: str, pattern: str, label: Callable[[re.Match[str]], list[str]]
    ) -> Callable[[int], Pictures]:
        return lambda most: from_repository(clones / name / "repo", pattern, label, most)

    def files(
        folder: str, pattern: str, label: Callable[[Path], list[str]]
    ) -> Callable[[int], Pictures]:
        return lambda most: from_folder(packages / folder, pattern, label, most)

    def synset(match: re.Match[str]) -> list[str]:
        return wordnet[match["wnid"]]

    def named(match: re.Match[str]) -> list[str]:
        return [words(match["name"])]

    def all_are(name: str) -> Callable[[object], list[str]]:
        return lambda _: [name]

    def stem(path: Path) -> list[str]:
        return [words(re.sub(r"_[a-z0-9]+_\d+$", "", path.stem.lower()))]

    flickr = sorted((data / "flickr8k-train").glob("*.tar"))
    imagenet = [data / "imagenet-sample-1k" / "imagenet-sample-1k.tar"]
    cifar = repository("cyizhuo+CIFAR-100-dataset", r"train/\w+/(?P<name>\w+?)_s_\d+\.png", named)
    mini = repository("Deo0330+split_minidataset", r"train/(?P<wnid>n\d+)/.*\.jpg", synset)
    tiny = repository(
        "seshuad+IMagenet", r"tiny-imagenet-200/train/(?P<wnid>n\d+)/.*\.JPEG", synset
    )
    imagenette = repository("thunderInfy+imagenette", r"train/(?P<wnid>n\d+)/.*\.JPEG", synset)
    imagen = repository("ajschumacher+imagen", r"imagen/(?P<wnid>n\d+)_.*", synset)
    instruments = repository("aizadaaskar+dl-homework", r"train/(?P<name>[^/]+)/.*\.jpg", named)
    sports = repository(
        "jurjsorinliviu+Sports-Type-Classifier", r"data/(?P<name>[^/]+)/.*\.jpg", named
    )
    groceries = repository(
        "marcusklasson+GroceryStoreDataset",
        r"dataset/train/.*/(?P<name>[^/]+)/[^/]+\.jpg",
        named,
    )
    clothing = repository(
        "alexeygrigorev+clothing-dataset-small", r"train/(?P<name>[^/]+)/.*\.jpg", named
    )
    fashion = repository(
        "GaneshNeupane01+Fashion-Recommendation-System",
        r"images/.*\.jpg",
        all_are("a product photo of something to wear"),
    )
    posters = repository(
        "laxmimerit+Movies-Poster_Dataset", r"Images/.*\.jpg", all_are("a movie poster")
    )
    materials = repository(
        "congduytran12+Trash-Classification-",
        r"dataset-resized/(?P<name>[^/]+)/.*\.jpg",
        named,
    )
    exercises = repository(
        "yuhonas+free-exercise-db",
        r"exercises/(?P<name>[^/]+)/0\.jpg",
        all_are("a person exercising in a gym"),
    )
    textures = repository("pan8915+DeepTexture", r"images/(?P<name>[^/]+)/.*\.jpg", named)
    flowers = repository(
        "martinwestin+flower_classification", r"flowers/(?P<name>[^/]+)/.*\.jpg", named
    )
    photographs = repository(
        "BIDS+BSDS500", r"BSDS500/data/images/.*\.jpg", all_are("a photograph")
    )
    subjects = repository("google+dreambooth", r"dataset/(?P<name>[a-z_]+?)\d*/.*\.jpg", named)
    share = "deb/usr/share"
    icons = files(f"{share}/icons/oxygen/base/128x128", "**/*.png", stem)
    game_art = files(f"{share}/games/wesnoth/1.16/data/core/images", "**/*.png", stem)
    stamps = files(f"{share}/tuxpaint/stamps", "**/*.png", stamp_names)
    return {
        "flickr8k": Set(lambda most: from_shards(flickr), 6497),
        "imagenet-sample": Set(lambda most: from_shards(imagenet), 1000, 1000),
        "imagen": Set(imagen, 1000, 1000),
        "cifar-100": Set(cifar, 15000, 30000),
        "mini-imagenet": Set(mini, 7500, 15000),
        "tiny-imagenet": Set(tiny, 10000, 22000),
        "imagenette": Set(imagenette, 0, 2000),
        "instruments": Set(instruments, 600, 600),
        "sports": Set(sports, 660, 660),
        "groceries": Set(groceries, 500, 500),
        "clothing": Set(clothing, 300, 300),
        "fashion": Set(fashion, 400),
        "posters": Set(posters, 400),
        "materials": Set(materials, 150, 150),
        "exercises": Set(exercises, 300),
        "textures": Set(textures, 200, 200),
        "flowers": Set(flowers, 150, 150),
        "photographs": Set(photographs, 500),
        "subjects": Set(subjects, 158, 158),
        "clip-art": Set(files(f"{share}/openclipart/png", "**/*.png", stem), 1500),
        "stamps": Set(stamps, 796, 796),
        "icons": Set(icons, 300),
        "game-art": Set(game_art, 400),
        "emoji": Set(lambda most: emoji(packages, most), 900, 900),
    }


def write_shard(path: Path, pictures: Pictures, dev: NDArray[np.uint8]) -> tuple[int, int]:
    """A tar of the pictures and their names; appears under its name when it is whole.

    Returns:
        How many it holds, and how many were left out because they look like one of a dev set.
    """
    count, left_out, partial = 0, 0, path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for content, captions in pictures:
            if (bits_apart(look(content), dev) <= SAME).any():
                left_out += 1
                continue
            count += 1
            add(tar, f"{count:06d}.jpg", content)
            add(tar, f"{count:06d}.txt", captions[0].encode())
            about = {"captions": captions}
            add(tar, f"{count:06d}.json", json.dumps(about, ensure_ascii=False).encode())
    partial.rename(path)
    return count, left_out


def dev_hashes(data: Path) -> NDArray[np.uint8]:
    """`look` of every picture of the dev sets [n, 32]."""
    photographs = [look(path.read_bytes()) for path in (data / "flickr8k-val").glob("*.jpg")]
    with np.load(data / "cifar10-dev" / "cifar10-dev.npz", allow_pickle=False) as file:
        small = [look(Image.fromarray(pixels)) for pixels in file["images"]]
    return np.stack([*photographs, *small])


def look(picture: bytes | Image.Image) -> NDArray[np.uint8]:
    """256 bits of how a picture looks: where its grey, shrunk to 17 x 16, darkens to the right."""
    image = open_picture(picture)
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] < grey[:, :-1])


def bits_apart(one: NDArray[np.uint8], many: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bitwise_count(one ^ many).sum(axis=1, dtype=np.int64)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def from_shards(shards: Iterable[Path]) -> Pictures:
    """All of webdataset tars whose `.json` has `captions` or `label`."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = {member.name: member for member in tar}
            for name, member in members.items():
                if name.endswith(".json"):
                    about = json.loads(read(tar, member))
                    picture = members[name.removesuffix(".json") + ".webp"]
                    yield read(tar, picture), about.get("captions") or [about["label"]]


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def from_repository(
    git: Path, pattern: str, label: Callable[[re.Match[str]], list[str]], most: int
) -> Pictures:
    """Files of the newest commit whose path matches, the same number of each label."""
    git = git / ".git" if (git / ".git").exists() else git
    listing = run_git(git, "ls-tree", "-r", "-z", "--format=%(objectname) %(path)", "HEAD")
    matches = []
    for line in listing.decode().split("\0")[:-1]:
        blob, _, path = line.partition(" ")
        match = re.fullmatch(pattern, path, re.IGNORECASE)
        if match:
            matches.append((blob, label(match)))
    chosen = spread(matches, lambda one: repr(one[1]), most)
    batch = "".join(f"{blob}\n" for blob, _ in chosen).encode()
    answer = io.BytesIO(run_git(git, "cat-file", "--batch", stdin=batch))
    for _, captions in chosen:
        header = answer.readline().split()  # blob, type, size
        content = answer.read(int(header[2]))
        answer.read(1)
        yield content, captions


def run_git(git: Path, *command: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", "--git-dir", str(git), *command], input=stdin, capture_output=True, check=True
    ).stdout


def from_folder(
    folder: Path, pattern: str, label: Callable[[Path], list[str]], most: int
) -> Pictures:
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    for path in spread(paths, lambda one: str(one.parent), most):
        yield path.read_bytes(), label(path)


def emoji(packages: Path, most: int) -> Pictures:
    """Fluent's and Noto's drawings of each emoji, without skin tones, by their CLDR names."""
    google = packages / "emoji-datasource-google"
    entries = json.loads((google / "emoji.json").read_text())
    for number in np.random.default_rng(0).permutation(len(entries))[:most]:
        entry = entries[number]
        name = [entry["name"].lower() if entry["name"] else entry["short_name"]]
        code = entry["unified"].lower()
        for path in (
            google / "img" / "google" / "64" / entry["image"],
            packages / "fluent-emoji-3d" / "assets" / f"{code}.webp",
        ):
            if path.exists():
                yield path.read_bytes(), name


def stamp_names(path: Path) -> list[str]:
    """The English line beside a stamp of Tux Paint."""
    beside = path.with_suffix(".txt")
    if not beside.exists():
        return ["a drawing"]
    lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
    return [lines[0].strip()] if lines and lines[0].strip() else ["a drawing"]


def synset_names(clones: Path) -> dict[str, list[str]]:
    """WordNet id -> its words, from Tiny ImageNet's `words.txt`."""
    git = clones / "seshuad+IMagenet" / "repo"
    git = git / ".git" if (git / ".git").exists() else git
    lines = run_git(git, "show", "HEAD:tiny-imagenet-200/words.txt").decode().splitlines()
    pairs = (line.split("\t") for line in lines)
    return {wnid: [one.strip() for one in names.split(",")] for wnid, names in pairs}


def spread(items: list, kind: Callable, most: int) -> list:  # type: ignore[type-arg]
    """At most so many of the items: of each kind the same number, as far as it has them."""
    kinds = defaultdict(list)
    random = np.random.default_rng(0)
    for number in random.permutation(len(items)):
        kinds[kind(items[number])].append(number)
    rounds = max(map(len, kinds.values()), default=0)
    order = [own[turn] for turn in range(rounds) for own in kinds.values() if turn < len(own)]
    return [items[number] for number in order[:most]]


def words(text: str) -> str:
    return " ".join(re.sub(r"[_\-+]+", " ", text).split()).lower()


if __name__ == "__main__":
    main()
