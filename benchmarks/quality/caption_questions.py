"""Questions of known answer, made from captions by rule: what several captions agree on is true.

    python benchmarks/quality/caption_questions.py ../shared/data/flickr8k-train FOLDER

lays out what the bundled head learned from, for `twotower train vqa`: the pictures and a table of
questions, where two captions of five must say it and most are asked in other words.

The rules are strict, so that few questions are wrong, and they see what people mention without
being asked: nobody asked these people these questions. Figures say "derived".
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twotower.asking.answer_types import answer_types
from twotower.asking.english import NUMBERS, with_article
from twotower.pairs.sources import open_source

AGREED = 3  # captions of five that must say it
LEARN_AGREED, LEARN_MOST = 2, 60  # for what is learned from; see `caption_questions`
# A noun of a yes/no question, and the words of which no caption may have one for a "no".
NOUNS = {
    "dog": "dog dogs puppy puppies animal animals canine hound terrier retriever",
    "man": "man men guy person people someone adult player rider gentleman male biker crowd group",
    "woman": "woman women lady ladies girl person people someone adult female crowd group couple",
    "boy": "boy boys child children kid kids toddler person people someone man teenager youth",
    "girl": "girl girls child children kid kids toddler person people someone woman teenager lady",
    "child": "child children kid kids toddler boy girl boys girls baby person people infant",
    "water": "water lake sea ocean river pool pond wave waves stream surf fountain puddle wet",
    "snow": "snow snowy ski skiing skier sled ice winter snowboard snowboarder snowball",
    "beach": "beach sand sandy shore ocean sea coast surf",
    "grass": "grass grassy field lawn meadow park green yard",
    "ball": "ball balls tennis football soccer basketball baseball volleyball rugby toy",
    "bicycle": "bicycle bike bikes bicycles cyclist biker cycling bicyclist motorcycle",
    "car": "car cars vehicle vehicles truck van race racing traffic automobile",
    "horse": "horse horses pony jockey rodeo equestrian",
    "hat": "hat hats cap helmet beanie hood",
    "tree": "tree trees forest wood woods branch leaves",
    "street": "street road sidewalk city traffic pavement crosswalk",
    "mountain": "mountain mountains hill cliff rock rocks peak",
    "skateboard": "skateboard skateboarder skateboarding skate skater",
    "motorcycle": "motorcycle motorbike bike bikes motocross dirtbike biker dirt",
    "swimming pool": "pool swimming swim swimmer swims",
    "football": "football soccer ball rugby player players",
    "frisbee": "frisbee disc disk toy",
    "camera": "camera cameras photo photographer picture",
    "guitar": "guitar guitars instrument music musician band",
    "boat": "boat boats kayak canoe raft ship sailing",
}
# What is easily taken for a noun: where captions say such a rival and none of the noun's own words,
# the answer is "no" too, and the harder one to give.
OWN = {
    "dog": "dog dogs puppy puppies canine hound terrier retriever",
    "man": "man men guy boy boys gentleman male he his",
    "woman": "woman women lady ladies girl girls female she her",
    "boy": "boy boys man men male he his",
    "girl": "girl girls woman women lady female she her",
    "horse": "horse horses pony jockey rodeo equestrian",
    "bicycle": "bicycle bike bikes bicycles cyclist cycling bicyclist",
    "motorcycle": "motorcycle motorbike bike bikes motocross dirtbike biker",
    "car": "car cars vehicle vehicles racing traffic automobile",
    "skateboard": "skateboard skateboarder skateboarding skate skater",
    "football": "football soccer",
    "frisbee": "frisbee disc disk",
}
RIVALS = {
    "dog": "horse cat cow sheep goat bird",
    "man": "woman girl",
    "woman": "man boy",
    "boy": "girl",
    "girl": "boy",
    "horse": "dog cow camel",
    "bicycle": "motorcycle skateboard scooter",
    "motorcycle": "bicycle car",
    "car": "motorcycle bicycle bus truck",
    "skateboard": "bicycle scooter surfboard",
    "football": "tennis basketball baseball rugby",
    "frisbee": "ball football",
}
NAMED = {"bicycle": ("bicycle", "bike"), "swimming pool": ("pool",)}
COUNTED = ("dog", "man", "woman", "boy", "girl", "child", "horse", "people", "player", "bird")
COLOURED = (
    "dog shirt hat jacket dress coat car helmet shorts pants ball jersey bike uniform swimsuit "
    "sweater cap horse boat toy umbrella hair puppy cat bird cow suit vest skirt bikini top "
    "sweatshirt truck motorcycle frisbee kite flower wall fence bag backpack surfboard collar "
    "blanket towel chair bench couch door house building raft kayak canoe slide rope stick snowsuit"
).split()
# Other ways to ask the same, so that a head does not learn one form alone.
OTHER_FORMS = {
    r"how many (\w+) are there\?": (
        r"how many \1 can you see?",
        r"how many \1 are in the picture?",
        r"how many \1?",
    ),
    r"what colour is the (\w+)\?": (
        r"what is the colour of the \1?",
        r"what colour \1 is it?",
        r"which colour is the \1?",
    ),
    r"where was this taken\?": (
        r"where is this?",
        r"what place is this?",
        r"where are they?",
        r"where was the photo taken?",
    ),
    r"what is the \w+ doing\?": (
        r"what are they doing?",
        r"what is happening?",
        r"what is going on?",
        r"what activity is this?",
    ),
    r"is there (an? [\w ]+) in the picture\?": (r"is there \1?", r"is this \1?", r"do you see \1?"),
}
# A place as captions say it, and the answers that are then right.
PLACES = {
    r"\b(on|at|along) (the|a) (sandy )?beach\b": ("beach", "sea"),
    r"\bin(to)? (the|a|deep)? ?snow\b|\bsnowy\b": ("snow", "mountains"),
    r"\b(swimming|the|a) pool\b": ("swimming pool",),
    r"\b(street|sidewalk|crosswalk)\b": ("street", "city", "road"),
    r"\b(grass|grassy|field|lawn)\b": ("field", "meadow", "park", "garden", "sports field"),
    r"\b(mountain|mountains|mountainside)\b": ("mountains", "snow"),
    r"\b(forest|woods|wooded)\b": ("forest",),
    r"\b(ocean|sea|surf|wave|waves)\b": ("sea", "beach"),
    r"\b(river|stream|rapids)\b": ("river", "waterfall"),
    r"\bplayground\b": ("playground", "park"),
}
# What captions say of who does something; of one word, its forms: swims, but no swimsuit.
ACTIVITIES = {
    doing: r"\b({}|{}e?s?)\b".format(doing, re.sub(r"([^aeiou])\1ing$|ing$", r"\1", doing))
    for doing in (
        "running walking jumping standing sitting sleeping eating drinking cooking reading singing "
        "dancing swimming diving surfing skiing snowboarding skateboarding climbing hiking fishing "
        "rowing sailing sliding swinging digging talking smiling hugging fighting barking playing"
    ).split()
} | {
    "cycling": r"^(?!.*\b(dirt|motor|moto)).*\brid\w+ (\w+ ){0,2}(bike|bicycle)s?\b",
    "riding a horse": r"\brid\w+ (\w+ ){0,2}(horse|pony)\b",
    "riding a motorcycle": r"\brid\w+ (\w+ ){0,2}(motorcycle|motorbike|dirtbike|dirt bike)s?\b",
    "playing football": r"\b(play|kick)\w* (\w+ ){0,2}(soccer|football)\b",
    "playing basketball": r"\bplay\w* (\w+ )?basketball\b",
    "playing tennis": r"\bplay\w* (\w+ )?tennis\b",
    "playing baseball": r"\bplay\w* (\w+ )?baseball\b",
    "playing music": r"\bplay\w* (\w+ ){0,2}(music|guitars?|drums?|piano|violin|instruments?)\b",
    "throwing a ball": r"\bthrow\w* (\w+ ){0,2}(ball|baseball|football)\b",
    "catching a frisbee": r"\bcatch\w* (\w+ ){0,2}frisbee\b",
}


@dataclass(frozen=True)
class Item:
    """A question about picture number `picture`; every answer in `right` is right."""

    picture: int
    kind: str
    question: str
    right: tuple[str, ...]


def caption_questions(
    captions: Sequence[Sequence[str]], agreed: int = AGREED, most: int = 30
) -> list[Item]:
    """All derived questions, in a fixed order.

    Args:
        agreed: captions of five that must say it.
        most: questions about a noun that are answered "yes", and as many "no".
    """
    random = np.random.default_rng(0)
    said = [[" ".join(re.findall(r"[a-z]+", one.lower())) for one in some] for some in captions]
    items = list(_presence(said, agreed, most, random))
    for picture, some in enumerate(said):
        for maker in (_counts, _colours, _places, _activities):
            items += [Item(picture, *made) for made in maker(some, agreed)]
    return items


def other_forms(items: Sequence[Item]) -> list[Item]:
    """The same questions, most of them in another form; of choices the order stays."""
    random, found = np.random.default_rng(1), []
    for item in items:
        forms = [item.question]
        for form, others in OTHER_FORMS.items():
            if re.fullmatch(form, item.question):
                forms += [re.sub(form, one, item.question) for one in others]
        found.append(replace(item, question=forms[int(random.integers(len(forms)))]))
    return found


def _agreed(captions: Sequence[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, one)) for one in captions)


def _presence(
    said: list[list[str]], agreed: int, most: int, random: np.random.Generator
) -> Iterator[Item]:
    """Yes/no and choice; nouns are as often absent as present, half of those with a rival."""
    present, absent = {}, {}
    for noun, words in NOUNS.items():
        names = "|".join(NAMED.get(noun, (noun,)))
        absent[noun] = [i for i, some in enumerate(said) if not _agreed(some, _any(words.split()))]
        yes = [i for i, some in enumerate(said) if _agreed(some, rf"\b({names})s?\b") >= agreed]
        present[noun] = yes
        many = min(len(yes), len(absent[noun]), most)
        near = random.permutation(_near(said, noun, agreed))[: many // 2].tolist()
        far = random.permutation(absent[noun])[: many - len(near)].tolist()
        a = with_article(noun)
        for answer, pictures in (
            ("yes", random.permutation(yes)[:many].tolist()),
            ("no", near + far),
        ):
            for picture in sorted(pictures):
                yield Item(picture, "yes/no", f"is there {a} in the picture?", (answer,))
    for noun, pictures in present.items():
        for picture in random.permutation(pictures)[: most * 2 // 3].tolist():
            others = [one for one in NOUNS if one != noun and picture in absent[one]]
            if others:
                pair = [noun, others[int(random.integers(len(others)))]]
                pair = [pair[i] for i in random.permutation(2)]
                question = f"is it {with_article(pair[0])} or {with_article(pair[1])}?"
                yield Item(picture, "choice", question, (noun,))


def _near(said: list[list[str]], noun: str, agreed: int) -> list[int]:
    """Pictures of a rival that are not of the noun."""
    if noun not in RIVALS:
        return []
    rival, own = _any([f"{one}s?" for one in RIVALS[noun].split()]), _any(OWN[noun].split())
    return [
        i
        for i, some in enumerate(said)
        if _agreed(some, rival) >= agreed and not _agreed(some, own)
    ]


def _any(words: Sequence[str]) -> str:
    return rf"\b({'|'.join(words)})\b"


Made = tuple[str, str, tuple[str, ...]]


def _counts(captions: list[str], agreed: int) -> Iterator[Made]:
    for noun in COUNTED:
        found: Counter[int] = Counter()
        plural = {"man": "men", "woman": "women", "child": "children"}.get(noun, f"{noun}s")
        plural = "people" if noun == "people" else plural
        for number, word in enumerate(NUMBERS, 1):
            form = noun if number == 1 and noun != "people" else plural
            before = r"(a|one)" if number == 1 else word
            found[number] = _agreed(captions, rf"\b{before} (\w+ ){{0,2}}{form}\b")
        number, times = found.most_common(1)[0]
        # "a dog" in all captions and "dogs" in none is one dog; people are never counted to one
        alone = times == len(captions) and not _agreed(captions, rf"\b({plural}|another|two)\b")
        if (number > 1 and times >= agreed) or (number == 1 and alone and noun != "people"):
            yield "count", f"how many {plural} are there?", (str(number),)


def _colours(captions: list[str], agreed: int) -> Iterator[Made]:
    colours = [*answer_types().answers["colour"], "gray", "tan", "blond", "blonde"]
    for noun in COLOURED:
        pattern = rf"\b({'|'.join(colours)}) (?:\w+ )?{noun}s?\b"
        mixed = rf"\b(?:{'|'.join(colours)}) and (?:{'|'.join(colours)})\b"
        found = Counter(one for some in captions for one in re.findall(pattern, some))
        if len(found) == 1 and max(found.values()) >= agreed - 1 and not _agreed(captions, mixed):
            colour = {"gray": "grey", "tan": "brown"}.get(*2 * [next(iter(found))])
            if colour in answer_types().answers["colour"]:
                yield "colour", f"what colour is the {noun}?", (colour,)


def _places(captions: list[str], agreed: int) -> Iterator[Made]:
    right = {
        answer
        for pattern, answers in PLACES.items()
        if _agreed(captions, pattern) >= agreed
        for answer in answers
    }
    if right:
        yield "place", "where was this taken?", tuple(sorted(right))


def _activities(captions: list[str], agreed: int) -> Iterator[Made]:
    doing = [one for one, said in ACTIVITIES.items() if _agreed(captions, said) >= agreed]
    if doing and (who := _who(captions, agreed)):
        yield "activity", f"what is the {who} doing?", tuple(doing)


def _who(captions: list[str], agreed: int) -> str | None:
    return next((one for one in COUNTED if _agreed(captions, rf"\b{one}\b") >= agreed), None)


def lay_out(location: Path, folder: Path) -> None:
    """Write the questions about pairs, and their pictures, as `twotower train vqa` takes them."""
    source = open_source(str(location / "*.tar"))
    pairs = [source[number] for number in range(len(source))]
    (folder / "pictures").mkdir(parents=True)
    for number, pair in enumerate(pairs):
        (folder / "pictures" / f"{number}.webp").write_bytes(pair.picture)
    items = caption_questions([pair.captions for pair in pairs], LEARN_AGREED, LEARN_MOST)
    with (folder / "questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "question", "answer"))
        for item in other_forms(items):
            for answer in item.right:
                writer.writerow((f"pictures/{item.picture}.webp", item.question, answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    lay_out(arguments.pairs, arguments.folder)
