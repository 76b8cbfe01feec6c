"""Gather the pictures of the bundled models, as tars with their names.

    python examples/gather_pictures.py CLONES PACKAGES DATA DESTINATION

Writes DESTINATION/pictures, which the teacher encodes, DESTINATION/named, which are trained on
their names alone, and DESTINATION/calibration, which `twotower calibrate` takes.

CLONES holds clones of public repositories as OWNER+NAME/repo, PACKAGES the unpacked Debian and npm
packages, DATA the folders `flickr8k-train` and `imagenet-sample-1k`, and the dev sets
`flickr8k-val` and `cifar10-dev`, whose pictures and near copies are left out. docs/model-card.md
lists all of them with their terms. Each set gives an equal number of pictures of each label. None
of them is part of the project.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from twotower.arrays import Int64Array, UInt8Array
from twotower.inputs.pictures import open_picture

CORRECTED_NAMES = {"acordian": "accordion", "marakas": "maracas", "saxaphone": "saxophone"}
MAX_COPY_DISTANCE = 8  # of 256 bits; copies in another size or compression differ in fewer
Pictures = Iterator[tuple[bytes, list[str]]]  # content of the file, and names of what it shows


def main() -> None:
    clones, packages, data, destination = map(Path, sys.argv[1:5])
    dev = dev_hashes(data)
    for name, source in picture_sets(clones, packages, data).items():
        for folder, count in (
            ("pictures", source.encoded),
            ("named", source.named),
            ("calibration", source.calibrated),
        ):
            path = destination / folder / f"{name}.tar"
            path.parent.mkdir(parents=True, exist_ok=True)
            if count and not path.exists():
                print(path, *write_shard(path, source.read(count), dev))


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one source.

    Attributes:
        read: number of pictures -> pictures, equally many of each label.
        encoded: number of pictures for the teacher.
        named: number of pictures that are trained on their names alone.
        calibrated: number of pictures that calibrations are fitted on.
    """

    read: Callable[[int], Pictures]
    encoded: int
    named: int = 0
    calibrated: int = 0


def picture_sets(clones: Path, packages: Path, data: Path) -> dict[str, PictureSet]:
    """Return all sets by name."""
    wordnet = synset_names(clones)

    def repository(
        name: str, pattern: str, label: Callable[[re.Match[str]], list[str]]
    ) -> Callable[[int], Pictures]:
        return lambda count: read_repository(clones / name / "repo", pattern, label, count)

    def files(
        folder: str, pattern: str, label: Callable[[Path], list[str]]
    ) -> Callable[[int], Pictures]:
        return lambda count: read_folder(packages / folder, pattern, label, count)

    def synset(match: re.Match[str]) -> list[str]:
        return wordnet[match["wnid"]]

    def folder_name(match: re.Match[str]) -> list[str]:
        name = to_words(match["name"])
        return [CORRECTED_NAMES.get(name, name)]

    def constant(name: str) -> Callable[[object], list[str]]:
        return lambda _: [name]

    def stem(path: Path) -> list[str]:
        return [to_words(re.sub(r"_[a-z0-9]+_\d+$", "", path.stem.lower()))]

    flickr = sorted((data / "flickr8k-train").glob("*.tar"))
    imagenet = [data / "imagenet-sample-1k" / "imagenet-sample-1k.tar"]
    cifar = repository(
        "cyizhuo+CIFAR-100-dataset", r"train/\w+/(?P<name>\w+?)_s_\d+\.png", folder_name
    )
    mini = repository("Deo0330+split_minidataset", r"train/(?P<wnid>n\d+)/.*\.jpg", synset)
    tiny = repository(
        "seshuad+IMagenet", r"tiny-imagenet-200/train/(?P<wnid>n\d+)/.*\.JPEG", synset
    )
    imagenette = repository("thunderInfy+imagenette", r"train/(?P<wnid>n\d+)/.*\.JPEG", synset)
    imagen = repository("ajschumacher+imagen", r"imagen/(?P<wnid>n\d+)_.*", synset)
    instruments = repository(
        "aizadaaskar+dl-homework", r"train/(?P<name>[^/]+)/.*\.jpg", folder_name
    )
    sports = repository(
        "jurjsorinliviu+Sports-Type-Classifier", r"data/(?P<name>[^/]+)/.*\.jpg", folder_name
    )
    groceries = repository(
        "marcusklasson+GroceryStoreDataset",
        r"dataset/train/.*/(?P<name>[^/]+)/[^/]+\.jpg",
        folder_name,
    )
    clothing = repository(
        "alexeygrigorev+clothing-dataset-small", r"train/(?P<name>[^/]+)/.*\.jpg", folder_name
    )
    fashion = repository(
        "GaneshNeupane01+Fashion-Recommendation-System",
        r"images/.*\.jpg",
        constant("a product photo of something to wear"),
    )
    posters = repository(
        "laxmimerit+Movies-Poster_Dataset", r"Images/.*\.jpg", constant("a movie poster")
    )
    materials = repository(
        "congduytran12+Trash-Classification-",
        r"dataset-resized/(?P<name>[^/]+)/.*\.jpg",
        folder_name,
    )
    exercises = repository(
        "yuhonas+free-exercise-db",
        r"exercises/(?P<name>[^/]+)/0\.jpg",
        constant("a person exercising in a gym"),
    )
    textures = repository("pan8915+DeepTexture", r"images/(?P<name>[^/]+)/.*\.jpg", folder_name)
    flowers = repository(
        "martinwestin+flower_classification", r"flowers/(?P<name>[^/]+)/.*\.jpg", folder_name
    )
    photographs = repository(
        "BIDS+BSDS500", r"BSDS500/data/images/.*\.jpg", constant("a photograph")
    )
    subjects = repository(
        "google+dreambooth", r"dataset/(?P<name>[a-z_]+?)\d*/.*\.jpg", folder_name
    )
    share = "deb/usr/share"
    icons = files(f"{share}/icons/oxygen/base/128x128", "**/*.png", stem)
    game_art = files(f"{share}/games/wesnoth/1.16/data/core/images", "**/*.png", stem)
    stamps = files(f"{share}/tuxpaint/stamps", "**/*.png", stamp_names)
    return {
        "flickr8k": PictureSet(lambda count: read_evenly(flickr, count), 6497, calibrated=1625),
        "imagenet-sample": PictureSet(lambda count: read_shards(imagenet), 1000, 1000, 1000),
        "imagen": PictureSet(imagen, 1000, 1000),
        "cifar-100": PictureSet(cifar, 15000, 30000),
        "mini-imagenet": PictureSet(mini, 7500, 15000, 500),
        "tiny-imagenet": PictureSet(tiny, 10000, 22000),
        "imagenette": PictureSet(imagenette, 0, 2000),
        "instruments": PictureSet(instruments, 600, 600, 450),
        "sports": PictureSet(sports, 660, 660),
        "groceries": PictureSet(groceries, 500, 500),
        "clothing": PictureSet(clothing, 300, 300),
        "fashion": PictureSet(fashion, 400),
        "posters": PictureSet(posters, 400),
        "materials": PictureSet(materials, 150, 150),
        "exercises": PictureSet(exercises, 300),
        "textures": PictureSet(textures, 200, 200),
        "flowers": PictureSet(flowers, 150, 150, 150),
        "photographs": PictureSet(photographs, 500),
        "subjects": PictureSet(subjects, 158, 158, 158),
        "clip-art": PictureSet(files(f"{share}/openclipart/png", "**/*.png", stem), 1500),
        "stamps": PictureSet(stamps, 796, 796),
        "icons": PictureSet(icons, 300),
        "game-art": PictureSet(game_art, 400),
        "emoji": PictureSet(lambda count: read_emoji(packages, count), 900, 900),
    }


def write_shard(path: Path, pictures: Pictures, dev: UInt8Array) -> tuple[int, int]:
    """Write a tar of pictures and their names, which gets its own name when it is complete.

    Args:
        dev: hashes of the pictures of the dev sets [n, 32].

    Returns:
        The number of pictures, and the number of omitted copies of dev pictures.
    """
    count, copies, partial = 0, 0, path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for content, captions in pictures:
            if (hamming_distances(difference_hash(content), dev) <= MAX_COPY_DISTANCE).any():
                copies += 1
                continue
            count += 1
            add_member(tar, f"{count:06d}.jpg", content)
            add_member(tar, f"{count:06d}.txt", captions[0].encode())
            tree = json.dumps({"captions": captions}, ensure_ascii=False)
            add_member(tar, f"{count:06d}.json", tree.encode())
    partial.rename(path)
    return count, copies


def dev_hashes(data: Path) -> UInt8Array:
    """Return the hash of every picture of the dev sets [n, 32]."""
    paths = (data / "flickr8k-val").glob("*.jpg")
    photographs = [difference_hash(path.read_bytes()) for path in paths]
    with np.load(data / "cifar10-dev" / "cifar10-dev.npz", allow_pickle=False) as file:
        small = [difference_hash(Image.fromarray(pixels)) for pixels in file["images"]]
    return np.stack([*photographs, *small])


def difference_hash(picture: bytes | Image.Image) -> UInt8Array:
    """Return 256 bits [32]: the places where the picture, at 17 x 16 pixels, darkens rightwards."""
    image = open_picture(picture)
    grey = np.asarray(image.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] < grey[:, :-1])


def hamming_distances(bits: UInt8Array, rows: UInt8Array) -> Int64Array:
    return np.bitwise_count(bits ^ rows).sum(axis=1, dtype=np.int64)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def read_shards(shards: Iterable[Path]) -> Pictures:
    """Yield all pictures of webdataset tars whose `.json` has `captions` or `label`."""
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = {member.name: member for member in tar}
            for name, member in members.items():
                if name.endswith(".json"):
                    tree = json.loads(read_member(tar, member))
                    picture = members[name.removesuffix(".json") + ".webp"]
                    yield read_member(tar, picture), tree.get("captions") or [tree["label"]]


def read_evenly(shards: Sequence[Path], count: int) -> Pictures:
    """Yield about `count` pictures of webdataset tars, evenly spaced."""
    pictures = list(read_shards(shards))
    yield from pictures[:: max(1, round(len(pictures) / count))]


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def read_repository(
    git: Path, pattern: str, label: Callable[[re.Match[str]], list[str]], count: int
) -> Pictures:
    """Yield files of the newest commit whose path matches, equally many of each label."""
    git = git / ".git" if (git / ".git").exists() else git
    listing = run_git(git, "ls-tree", "-r", "-z", "--format=%(objectname) %(path)", "HEAD")
    matches = []
    for line in listing.decode().split("\0")[:-1]:
        blob, _, path = line.partition(" ")
        match = re.fullmatch(pattern, path, re.IGNORECASE)
        if match:
            matches.append((blob, label(match)))
    chosen = draw_evenly(matches, lambda match: repr(match[1]), count)
    blobs = "".join(f"{blob}\n" for blob, _ in chosen).encode()
    output = io.BytesIO(run_git(git, "cat-file", "--batch", stdin=blobs))
    for _, captions in chosen:
        header = output.readline().split()  # blob, type, size
        content = output.read(int(header[2]))
        output.read(1)
        yield content, captions


def run_git(git: Path, *command: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", "--git-dir", str(git), *command], input=stdin, capture_output=True, check=True
    ).stdout


def read_folder(
    folder: Path, pattern: str, label: Callable[[Path], list[str]], count: int
) -> Pictures:
    """Yield files whose path matches, equally many of each folder."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    for path in draw_evenly(paths, lambda path: str(path.parent), count):
        yield path.read_bytes(), label(path)


def read_emoji(packages: Path, count: int) -> Pictures:
    """Yield Fluent's and Noto's drawings of emoji without skin tones, with their CLDR names."""
    google = packages / "emoji-datasource-google"
    entries = json.loads((google / "emoji.json").read_text())
    for number in np.random.default_rng(0).permutation(len(entries))[:count]:
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
    """Return the English description of a stamp of Tux Paint."""
    description = path.with_suffix(".txt")
    if not description.exists():
        return ["a drawing"]
    lines = description.read_text(encoding="utf-8", errors="replace").splitlines()
    return [lines[0].strip()] if lines and lines[0].strip() else ["a drawing"]


def synset_names(clones: Path) -> dict[str, list[str]]:
    """Return the words of each WordNet id, from Tiny ImageNet's `words.txt`."""
    git = clones / "seshuad+IMagenet" / "repo"
    git = git / ".git" if (git / ".git").exists() else git
    lines = run_git(git, "show", "HEAD:tiny-imagenet-200/words.txt").decode().splitlines()
    pairs = (line.split("\t") for line in lines)
    return {wnid: [name.strip() for name in names.split(",")] for wnid, names in pairs}


def draw_evenly(items: list, kind: Callable, count: int) -> list:  # type: ignore[type-arg]
    """Draw at most `count` items, equally many of each kind as far as it has them."""
    kinds = defaultdict(list)
    random = np.random.default_rng(0)
    for number in random.permutation(len(items)):
        kinds[kind(items[number])].append(number)
    turns = max(map(len, kinds.values()), default=0)
    order = [
        numbers[turn] for turn in range(turns) for numbers in kinds.values() if turn < len(numbers)
    ]
    return [items[number] for number in order[:count]]


def to_words(text: str) -> str:
    """Replace separators of a file name by spaces, in lower case."""
    return " ".join(re.sub(r"[_\-+]+", " ", text).split()).lower()


if __name__ == "__main__":
    main()
