"""Make the pairs of `twotower train emoji` from two npm packages.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    (unpack each into a folder)
    pip install emoji==2.16.0
    python examples/make_emoji.py GOOGLE/package TWITTER/package

Noto's drawings are for training, Twemoji's drawings of the same emoji for the test, which training
never sees. The caption is the CLDR short name. Flags, skin tones and gendered variants are left
out, because hundreds of them look nearly equal.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import emoji
from PIL import Image

from twotower.inputs.pictures import on_white

DESTINATION = Path(__file__).parents[1] / "twotower" / "train" / "emoji"


def main() -> None:
    google, twitter = (Path(argument) for argument in sys.argv[1:3])
    captions = read_captions(google / "emoji.json")
    write_tar(captions, google / "img" / "google" / "64", DESTINATION / "noto.tar")
    write_tar(captions, twitter / "img" / "twitter" / "64", DESTINATION / "twemoji.tar")
    print(f"{len(captions)} pairs in each tar")


def read_captions(path: Path) -> dict[str, str]:
    """Return the CLDR short name of each chosen emoji by the file name of its drawing."""
    captions: dict[str, str] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        points = entry["unified"].split("-")
        drawn_twice = entry["has_img_google"] and entry["has_img_twitter"]
        gendered = {"2640", "2642"} & set(points)
        if not drawn_twice or gendered or entry["category"] in ("Flags", "Component"):
            continue
        names = emoji.EMOJI_DATA["".join(chr(int(point, 16)) for point in points)]
        captions[entry["image"]] = names["en"].strip(":").replace("_", " ")
    return captions


def write_tar(captions: dict[str, str], folder: Path, path: Path) -> None:
    """Write a webdataset tar of drawings on white, as WebP, and their captions."""
    with tarfile.open(path, "w") as tar:
        for name, caption in captions.items():
            file = io.BytesIO()
            with Image.open(folder / name) as drawing:
                on_white(drawing).save(file, "webp", quality=90)
            for suffix, content in (("webp", file.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{Path(name).stem}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
