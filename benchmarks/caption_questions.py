"""Questions of known answer, made from captions by rule: what several captions agree on is true.

The rules are strict, so that few questions are wrong, and they see what people mention without
being asked: nobody asked these people these questions. Figures say "derived".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from twotower.asking.vocabulary import NUMBERS, singular, vocabulary, with_article

AGREED = 3  # captions of five that must say it
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
COUNTED = ("dog", "man", "woman", "boy", "girl", "child", "horse", "people")
COLOURED = (
    "dog shirt hat jacket dress coat car helmet shorts pants ball jersey bike uniform swimsuit "
    "sweater cap horse boat toy umbrella swimsuit hair"
).split()
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
ACTIVITIES = (
    "running walking jumping standing sitting sleeping eating drinking cooking reading singing "
    "dancing swimming diving surfing skiing snowboarding skateboarding climbing hiking fishing "
    "rowing sailing sliding swinging digging"
).split()


@dataclass(frozen=True)
class Item:
    """A question about picture number `picture`; every answer in `right` is right."""

    picture: int
    kind: str
    question: str
    right: tuple[str, ...]


def caption_questions(captions: Sequence[Sequence[str]], seed: int = 0) -> list[Item]:
    """All derived questions, in a fixed order."""
    random = np.random.default_rng(seed)
    said = [[" ".join(re.findall(r"[a-z]+", one.lower())) for one in some] for some in captions]
    items = list(_presence(said, random))
    for picture, some in enumerate(said):
        for maker in (_counts, _colours, _places, _activities):
            items += [Item(picture, *made) for made in maker(some)]
    return items


def _agreed(captions: Sequence[str], pattern: str) -> int:
    return sum(bool(re.search(pattern, one)) for one in captions)


def _presence(said: list[list[str]], random: np.random.Generator) -> Iterator[Item]:
    """Yes/no and choice; nouns are as often absent as present, half of those with a rival."""
    present, absent = {}, {}
    for noun, words in NOUNS.items():
        names = "|".join(NAMED.get(noun, (noun,)))
        absent[noun] = [i for i, some in enumerate(said) if not _agreed(some, _any(words.split()))]
        yes = [i for i, some in enumerate(said) if _agreed(some, rf"\b({names})s?\b") >= AGREED]
        present[noun] = yes
        most = min(len(yes), len(absent[noun]), 30)
        near = random.permutation(_near(said, noun))[: most // 2].tolist()
        far = random.permutation(absent[noun])[: most - len(near)].tolist()
        a = with_article(noun)
        for answer, pictures in (
            ("yes", random.permutation(yes)[:most].tolist()),
            ("no", near + far),
        ):
            for picture in sorted(pictures):
                yield Item(picture, "yes/no", f"is there {a} in the picture?", (answer,))
    for noun, pictures in present.items():
        for picture in random.permutation(pictures)[:20].tolist():
            others = [one for one in NOUNS if one != noun and picture in absent[one]]
            if others:
                pair = [noun, others[int(random.integers(len(others)))]]
                pair = [pair[i] for i in random.permutation(2)]
                question = f"is it {with_article(pair[0])} or {with_article(pair[1])}?"
                yield Item(picture, "choice", question, (noun,))


def _near(said: list[list[str]], noun: str) -> list[int]:
    """Pictures of a rival that are not of the noun."""
    if noun not in RIVALS:
        return []
    rival, own = _any([f"{one}s?" for one in RIVALS[noun].split()]), _any(OWN[noun].split())
    return [
        i
        for i, some in enumerate(said)
        if _agreed(some, rival) >= AGREED and not _agreed(some, own)
    ]


def _any(words: Sequence[str]) -> str:
    return rf"\b({'|'.join(words)})\b"


Made = tuple[str, str, tuple[str, ...]]


def _counts(captions: list[str]) -> Iterator[Made]:
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
        if (number > 1 and times >= AGREED) or (number == 1 and alone and noun != "people"):
            yield "count", f"how many {plural} are there?", (str(number),)


def _colours(captions: list[str]) -> Iterator[Made]:
    colours = [*vocabulary().types["colour"], "gray", "tan", "blond", "blonde"]
    for noun in COLOURED:
        pattern = rf"\b({'|'.join(colours)}) (?:\w+ )?{noun}s?\b"
        mixed = rf"\b(?:{'|'.join(colours)}) and (?:{'|'.join(colours)})\b"
        found = Counter(one for some in captions for one in re.findall(pattern, some))
        if len(found) == 1 and max(found.values()) >= 2 and not _agreed(captions, mixed):
            colour = {"gray": "grey", "tan": "brown"}.get(*2 * [next(iter(found))])
            if colour in vocabulary().types["colour"]:
                yield "colour", f"what colour is the {noun}?", (colour,)


def _places(captions: list[str]) -> Iterator[Made]:
    right = {
        answer
        for pattern, answers in PLACES.items()
        if _agreed(captions, pattern) >= AGREED
        for answer in answers
    }
    if right:
        yield "place", "where was this taken?", tuple(sorted(right))


def _activities(captions: list[str]) -> Iterator[Made]:
    for doing in ACTIVITIES:
        stem = singular(doing.removesuffix("ing")).rstrip("n") if doing == "running" else doing[:-3]
        if _agreed(captions, rf"\b{stem}\w*") >= AGREED:
            who = next((one for one in COUNTED if _agreed(captions, rf"\b{one}\b") >= AGREED), None)
            if who:
                yield "activity", f"what is the {who} doing?", (doing,)
