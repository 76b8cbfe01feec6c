"""Makes the pairs of `twotower train emoji` from two npm packages.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    (unpack each into a folder)
    pip install emoji==2.16.0
    python examples/make_emoji.py GOOGLE/package TWITTER/package

Noto's drawings are for training, Twemoji's of the same things for the test: another artist's, never
seen in training. The caption is the CLDR short name. Flags, skin tones and gendered variants are
left out: hundreds of near-equal drawings that only their names tell apart.
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
    chosen = choose(google / "emoji.json")
    write(chosen, google / "img" / "google" / "64", DESTINATION / "noto.tar")
    write(chosen, twitter / "img" / "twitter" / "64", DESTINATION / "twemoji.tar")
    print(f"{len(chosen)} pairs each")


def choose(path: Path) -> dict[str, str]:
    """File name of the drawing -> CLDR short name."""
    chosen: dict[str, str] = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        points = entry["unified"].split("-")
        both = entry["has_img_google"] and entry["has_img_twitter"]
        gendered = {"2640", "2642"} & set(points)
        if not both or gendered or entry["category"] in ("Flags", "Component"):
            continue
        about = emoji.EMOJI_DATA["".join(chr(int(point, 16)) for point in points)]
        chosen[entry["image"]] = about["en"].strip(":").replace("_", " ")
    return chosen


def write(chosen: dict[str, str], folder: Path, path: Path) -> None:
    """A webdataset tar of WebP drawings on white and their names."""
    with tarfile.open(path, "w") as tar:
        for name, caption in chosen.items():
            file = io.BytesIO()
            with Image.open(folder / name) as drawing:
                on_white(drawing).save(file, "webp", quality=90)
            for extension, content in (("webp", file.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{Path(name).stem}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
