"""Measure the filters of pairs on real pairs with planted junk: junk removed, good pairs kept.

    python benchmarks/quality/pair_filters.py ../shared/data

The constants were chosen on Flickr8k's training pairs (a picture with its first caption). The
second source was held out: ImageNet photographs, with "a photograph of a NAME" as texts. Each kind
of junk is planted beside the good pairs, and all filters run at once; a pair counts as removed
whichever filter removes it, and the column `filters` names them. The CLIP score (model "small")
runs by itself on as many wrong captions as good pairs, and keeps half. Writes
results/pair_filters.csv.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import twotower
from benchmarks.table import write_results
from twotower.inputs.pictures import on_white, open_picture
from twotower.pairs.filters.pictures import hash_pictures
from twotower.pairs.filters.run import FilterInputs, filter_pairs
from twotower.pairs.filters.settings import FILTERS, FilterSettings
from twotower.pairs.pair import Source
from twotower.pairs.sources import open_source

COLUMNS = ("source", "kind", "pairs", "removed", "filters")
GOOD, COPIES, SCORED = 500, 60, 100
Sample = tuple[str, bytes, str]  # the kind, the encoded picture, the text

BOILERPLATE = {
    "flickr8k": """image|photo|logo|click here to enlarge|no image available|IMG_2041.JPG|DSC_0042
        |placeholder image|read more about this|<img src="a.png">|Follow us on Instagram|untitled
        |Screenshot 2020-01-02 at 10.00.00|4f3a2b1c9d8e7f60a1b2|product image|default thumbnail
        |https://cdn.example.org/a.jpg|share on facebook|view full size image|50% 20% 10% 5 $""",
    "imagenet": """picture|icon|tap to zoom|image coming soon|P1010023.jpg|hero image|learn more
        |{{ item.name }}|sample photo|&nbsp; &nbsp; - &nbsp;|Pin it|avatar|Facebook logo|photo by
        |uploads_2019_04_beach_house_front|image not found|new new new new new|(c) 2012 // 44-22
        |Error loading image|Advertisement|cover photo|screen shot 2014|header-image-final-web""",
}
CONTACTS = {
    "flickr8k": """Book this cabin: anna@cabins.example|Flat for rent, call +49 170 1234567
        |Write to info [at] studio [dot] example for prints|Taxi in town (555) 123-4567
        |Tel. 030 1234567 for a table by the window""",
    "imagenet": """For sale by owner, 212-555-0199, low mileage|tickets@opera.example or at the door
        |Whatsapp: 0044 7700 900123 for wedding cakes|Our shop, phone 01632 960001, open daily
        |photos by sam.lee at lens dot example in spring""",
}
FOREIGN = {
    "flickr8k": """Ein Hund läuft über eine grüne Wiese|Deux enfants jouent au bord de la mer
        |Un hombre sube una montaña con nieve|Мальчик прыгает в воду летом
        |Een vrouw fietst door de regen in de stad|湖のそばに座っている人々""",
    "imagenet": """Das alte Rathaus am Abend mit Lichtern|Une tasse de café sur une table en bois
        |Una mujer vende flores en el mercado|Gatto nero che dorme sul divano
        |Dwa konie biegną po polu|山顶上的一座小寺庙""",
}
EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "copy: JPEG at quality 30": lambda image: Image.open(io.BytesIO(encode(image, 30))),
    "copy: 90 % of the size": lambda image: image.resize(
        (round(image.width * 0.9), round(image.height * 0.9))
    ),
    "copy: 4 % cropped": lambda image: crop(image, 0.04),
    "copy: 8 % cropped": lambda image: crop(image, 0.08),
}


def main() -> None:
    data = Path(sys.argv[1])
    sources = {
        "flickr8k": (open_source(data / "flickr8k-train"), "{}"),
        "imagenet": (open_source(data / "imagenet-sample-1k"), "a photograph of a {}"),
    }
    rows = [row for name, source in sources.items() for row in measure(name, *source)]
    write_results("pair_filters.csv", COLUMNS, rows)


def measure(name: str, source: Source, template: str) -> list[tuple[object, ...]]:
    """Return the rows of a source."""
    numbers = np.random.default_rng(0).permutation(len(source))[:GOOD].tolist()
    pairs = [source[number] for number in numbers]
    good = [("good", pair.picture, template.format(pair.captions[0])) for pair in pairs]
    junk = make_junk(name, good)
    evaluation = hash_pictures(
        encode(on_white(open_picture(picture)), 60) for _, picture, _ in good[:COPIES]
    )
    held_out = [("picture of an evaluation set", *sample[1:]) for sample in good[:COPIES]]
    samples = [*good[COPIES * (1 + len(EDITS)) :], *junk, *held_out]
    rows = run(name, samples, FilterSettings(), FilterInputs(evaluation=evaluation))
    return rows + identify(name, good) + score(name, good)


def make_junk(name: str, good: list[Sample]) -> list[Sample]:
    """Return junk of all kinds; pictures are those of good pairs, but for copies recoded."""
    generator = np.random.default_rng(1)
    texts = [text for _, _, text in good]
    junk = []
    for number, (kind, edit) in enumerate(EDITS.items(), 1):
        for _, picture, text in good[COPIES * number : COPIES * (number + 1)]:
            copy = encode(edit(on_white(open_picture(picture))), 85)
            junk += [(kind, picture, text), (kind, copy, text)]
    lists = {"boilerplate": BOILERPLATE, "contact": CONTACTS}
    fresh = iter(np.random.default_rng(2).permutation(10_000).tolist())
    for kind, entries in lists.items():
        junk += [(kind, unlike(next(fresh)), text.strip()) for text in entries[name].split("|")]
    logos = [unlike(next(fresh)) for _ in range(3)]
    junk += [("placeholder", logo, texts[generator.integers(len(texts))]) for logo in logos * 30]
    junk += [("repeated text", unlike(next(fresh)), f"welcome to shop {n % 2}") for n in range(60)]
    junk += [
        ("small or elongated", encode(on_white(open_picture(picture)).resize(size), 85), text)
        for size in ((120, 120), (800, 210), (1, 1))
        for _, picture, text in good[:20]
    ]
    grey = Image.new("RGB", (300, 300), (240, 240, 240))
    return [*junk, *(("blank", encode(grey, 85), text) for text in texts[:20])]


def unlike(seed: int) -> bytes:
    """Return a picture that is like no other: smooth random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return encode(Image.fromarray(blocks).resize((300, 300)), 90)


def identify(name: str, good: list[Sample]) -> list[tuple[object, ...]]:
    """Return the rows of the filter of languages, for English."""
    foreign = [("other language", unlike(0), text.strip()) for text in FOREIGN[name].split("|")]
    samples = [*(("good, language", *sample[1:]) for sample in good[:SCORED]), *foreign]
    skipped = tuple(name for name in FILTERS if name not in ("readable", "language"))
    settings = FilterSettings(skipped=skipped, languages=("en",))
    return run(name, samples, settings, FilterInputs())


def score(name: str, good: list[Sample]) -> list[tuple[object, ...]]:
    """Return the rows of the CLIP score: half of the pairs have the caption of another picture."""
    chosen = good[: 2 * SCORED]
    wrong = [
        ("wrong caption", picture, text)
        for (_, picture, _), (_, _, text) in itertools.pairwise(chosen[: SCORED + 1])
    ]
    samples = [*(("good, CLIP score", *sample[1:]) for sample in chosen[SCORED:]), *wrong]
    skipped = tuple(name for name in FILTERS if name not in ("readable", "score"))
    settings = FilterSettings(skipped=skipped, score_share=0.5)
    inputs = FilterInputs(lambda: twotower.load("small"), "twotower-small")
    return run(name, samples, settings, inputs)


def run(
    name: str, samples: list[Sample], settings: FilterSettings, inputs: FilterInputs
) -> list[tuple[object, ...]]:
    """Filter samples, and return a row for each kind."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "shards" / "00000.tar"
        write_shard(shard, samples)
        filter_pairs(shard.parent, Path(folder) / "kept", settings, inputs)
        rows = pq.read_table(Path(folder) / "kept" / "selection").to_pylist()
    kinds = [kind for kind, _, _ in samples]
    counts, removed = Counter(kinds), Counter[str]()
    filters: dict[str, Counter[str]] = {kind: Counter() for kind in counts}
    for kind, row in zip(kinds, rows, strict=True):
        if not row["kept"]:
            removed[kind] += 1
            filters[kind][row["filter"]] += 1
    return [
        (name, kind, count, f"{removed[kind] / count:.3f}", describe(filters[kind]))
        for kind, count in counts.items()
    ]


def describe(filters: Counter[str]) -> str:
    return "; ".join(f"{name} {count}" for name, count in filters.most_common())


def write_shard(path: Path, samples: list[Sample]) -> None:
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for number, (_, picture, text) in enumerate(samples):
            tree = {"url": f"https://example.org/{number}", "captions": [text]}
            contents = {"jpg": picture, "json": json.dumps(tree).encode()}
            for suffix, content in contents.items():
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def encode(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return file.getvalue()


def crop(image: Image.Image, share: float) -> Image.Image:
    """Cut off a share of the width and of the height, half of it at each side."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


if __name__ == "__main__":
    main()
