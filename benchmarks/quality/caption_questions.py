"""Derive questions with answers from captions: a statement of several captions counts as true.

    python benchmarks/quality/caption_questions.py ../shared/data/flickr8k-train FOLDER

writes the training set of the bundled head, for `twotower train vqa`: pictures and a table of
questions of the kinds that `ask` passes to a head, for which two captions of five must agree, most
of them rephrased.

The rules are strict, so that few answers are wrong. Captions are not answers to these questions:
they contain only what people mention unprompted. Results on these questions are called "derived".
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
from twotower.asking.zero_shot import HEAD_SHARES
from twotower.pairs.sources import open_source

AGREED = 3  # captions of five that must agree
TRAINING_AGREED, TRAINING_MOST = 2, 60  # arguments of `caption_questions` for the training set
# A noun of a yes/no question, and the words that no caption may contain for a "no".
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
# Nouns that are easily confused. If captions contain a rival and none of the noun's synonyms, the
# answer is "no" too, and harder to find.
SYNONYMS = {
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
CAPTION_WORDS = {"bicycle": ("bicycle", "bike"), "swimming pool": ("pool",)}
COUNTED = ("dog", "man", "woman", "boy", "girl", "child", "horse", "people", "player", "bird")
COLOURED = (
    "dog shirt hat jacket dress coat car helmet shorts pants ball jersey bike uniform swimsuit "
    "sweater cap horse boat toy umbrella hair puppy cat bird cow suit vest skirt bikini top "
    "sweatshirt truck motorcycle frisbee kite flower wall fence bag backpack surfboard collar "
    "blanket towel chair bench couch door house building raft kayak canoe slide rope stick snowsuit"
).split()
# Other forms of the same questions, so that a head does not learn one form alone.
REPHRASINGS = {
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
# A place in captions, and the answers that are then right.
LOCATIONS = {
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
# An activity, and its pattern in captions; for single words their forms: swims, not swimsuit.
ACTIVITIES = {
    verb: r"\b({}|{}e?s?)\b".format(verb, re.sub(r"([^aeiou])\1ing$|ing$", r"\1", verb))
    for verb in (
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
class LabelledQuestion:
    """A question with its answers.

    Attributes:
        picture: number of the picture.
        right: all right answers.
    """

    picture: int
    kind: str
    question: str
    right: tuple[str, ...]


def caption_questions(
    captions: Sequence[Sequence[str]], agreed: int = AGREED, most: int = 30
) -> list[LabelledQuestion]:
    """Return all derived questions, in a fixed order.

    Args:
        agreed: captions of five that must agree.
        most: questions about a noun with the answer "yes", and as many with "no".
    """
    random = np.random.default_rng(0)
    normalized = [
        [" ".join(re.findall(r"[a-z]+", text.lower())) for text in texts] for texts in captions
    ]
    questions = list(_presence(normalized, agreed, most, random))
    for picture, texts in enumerate(normalized):
        for derive in (_counts, _colours, _locations, _activities):
            questions += [LabelledQuestion(picture, *fields) for fields in derive(texts, agreed)]
    return questions + _statements(normalized, questions)


def rephrase(questions: Sequence[LabelledQuestion]) -> list[LabelledQuestion]:
    """Return the same questions, most of them in another form; choices keep their order."""
    random, rephrased = np.random.default_rng(1), []
    for labelled in questions:
        forms = [labelled.question]
        for pattern, replacements in REPHRASINGS.items():
            if re.fullmatch(pattern, labelled.question):
                forms += [re.sub(pattern, text, labelled.question) for text in replacements]
        rephrased.append(replace(labelled, question=forms[int(random.integers(len(forms)))]))
    return rephrased


def _matches(captions: Sequence[str], pattern: str) -> int:
    """Return the number of captions that contain the pattern."""
    return sum(bool(re.search(pattern, text)) for text in captions)


def _presence(
    captions: list[list[str]], agreed: int, most: int, random: np.random.Generator
) -> Iterator[LabelledQuestion]:
    """Derive yes/no questions and choices.

    Nouns are absent as often as present; half of the pictures without the noun show a rival, where
    there are such pictures.
    """
    present, absent = {}, {}
    for noun, words in NOUNS.items():
        names = "|".join(CAPTION_WORDS.get(noun, (noun,)))
        pattern = _any(words.split())
        absent[noun] = [i for i, texts in enumerate(captions) if not _matches(texts, pattern)]
        pattern = rf"\b({names})s?\b"
        yes = [i for i, texts in enumerate(captions) if _matches(texts, pattern) >= agreed]
        present[noun] = yes
        count = min(len(yes), len(absent[noun]), most)
        rivals = random.permutation(_rivals(captions, noun, agreed))[: count // 2].tolist()
        unrelated = random.permutation(absent[noun])[: count - len(rivals)].tolist()
        question = f"is there {with_article(noun)} in the picture?"
        for answer, pictures in (
            ("yes", random.permutation(yes)[:count].tolist()),
            ("no", rivals + unrelated),
        ):
            for picture in sorted(pictures):
                yield LabelledQuestion(picture, "yes/no", question, (answer,))
    for noun, pictures in present.items():
        for picture in random.permutation(pictures)[: most * 2 // 3].tolist():
            wrong = [name for name in NOUNS if name != noun and picture in absent[name]]
            if wrong:
                pair = [noun, wrong[int(random.integers(len(wrong)))]]
                pair = [pair[i] for i in random.permutation(2)]
                question = f"is it {with_article(pair[0])} or {with_article(pair[1])}?"
                yield LabelledQuestion(picture, "choice", question, (noun,))


def _rivals(captions: list[list[str]], noun: str, agreed: int) -> list[int]:
    """Return the pictures that show a rival, but not the noun."""
    if noun not in RIVALS:
        return []
    rival = _any([f"{word}s?" for word in RIVALS[noun].split()])
    synonym = _any(SYNONYMS[noun].split())
    return [
        i
        for i, texts in enumerate(captions)
        if _matches(texts, rival) >= agreed and not _matches(texts, synonym)
    ]


def _any(words: Sequence[str]) -> str:
    return rf"\b({'|'.join(words)})\b"


Fields = tuple[str, str, tuple[str, ...]]  # kind, question, right answers


def _counts(captions: list[str], agreed: int) -> Iterator[Fields]:
    for noun in COUNTED:
        frequencies: Counter[int] = Counter()
        plural = {"man": "men", "woman": "women", "child": "children"}.get(noun, f"{noun}s")
        plural = "people" if noun == "people" else plural
        for number, word in enumerate(NUMBERS, 1):
            form = noun if number == 1 and noun != "people" else plural
            before = r"(a|one)" if number == 1 else word
            frequencies[number] = _matches(captions, rf"\b{before} (\w+ ){{0,2}}{form}\b")
        number, times = frequencies.most_common(1)[0]
        # One dog: "a dog" in all captions, and "dogs" in none. Captions do not count one person.
        alone = times == len(captions) and not _matches(captions, rf"\b({plural}|another|two)\b")
        if (number > 1 and times >= agreed) or (number == 1 and alone and noun != "people"):
            yield "count", f"how many {plural} are there?", (str(number),)


def _colours(captions: list[str], agreed: int) -> Iterator[Fields]:
    colours = [*answer_types().answers["colour"], "gray", "tan", "blond", "blonde"]
    for noun in COLOURED:
        pattern = rf"\b({'|'.join(colours)}) (?:\w+ )?{noun}s?\b"
        mixed = rf"\b(?:{'|'.join(colours)}) and (?:{'|'.join(colours)})\b"
        frequencies = Counter(match for text in captions for match in re.findall(pattern, text))
        enough = len(frequencies) == 1 and max(frequencies.values()) >= agreed - 1
        if enough and not _matches(captions, mixed):
            colour = {"gray": "grey", "tan": "brown"}.get(*2 * [next(iter(frequencies))])
            if colour in answer_types().answers["colour"]:
                yield "colour", f"what colour is the {noun}?", (colour,)


def _locations(captions: list[str], agreed: int) -> Iterator[Fields]:
    right = {
        answer
        for pattern, answers in LOCATIONS.items()
        if _matches(captions, pattern) >= agreed
        for answer in answers
    }
    if right:
        yield "place", "where was this taken?", tuple(sorted(right))


def _activities(captions: list[str], agreed: int) -> Iterator[Fields]:
    activities = [
        activity
        for activity, pattern in ACTIVITIES.items()
        if _matches(captions, pattern) >= agreed
    ]
    if activities and (actor := _actor(captions, agreed)):
        yield "activity", f"what is the {actor} doing?", tuple(activities)


def _statements(
    captions: list[list[str]], questions: Sequence[LabelledQuestion]
) -> list[LabelledQuestion]:
    """Derive yes/no questions from those about colours and activities.

    There are two for each: about a right answer, and about that of another question of its kind
    which no caption mentions.
    """
    random, derived = np.random.default_rng(2), []
    patterns = {
        "colour": {colour: _any([colour]) for colour in answer_types().answers["colour"]},
        "activity": ACTIVITIES,
    }
    answers = {
        kind: [
            answer for labelled in questions if labelled.kind == kind for answer in labelled.right
        ]
        for kind in patterns
    }
    for labelled in questions:
        if labelled.kind in patterns:
            texts, pattern_of = captions[labelled.picture], patterns[labelled.kind]
            absent = [
                answer
                for answer in answers[labelled.kind]
                if not _matches(texts, pattern_of[answer])
            ]
            thing = re.sub(r"^what (colour )?is the |( doing)?\?$", "", labelled.question)
            wrong = absent[int(random.integers(len(absent)))]
            for answer, right in ((labelled.right[0], "yes"), (wrong, "no")):
                question = f"{'are' if thing == 'people' else 'is'} the {thing} {answer}?"
                derived.append(LabelledQuestion(labelled.picture, "statement", question, (right,)))
    return derived


def _actor(captions: list[str], agreed: int) -> str | None:
    return next((noun for noun in COUNTED if _matches(captions, rf"\b{noun}\b") >= agreed), None)


def write_training_set(location: Path, folder: Path) -> None:
    """Write questions about pairs, and their pictures, in the form that `train vqa` reads."""
    source = open_source(str(location / "*.tar"))
    pairs = [source[number] for number in range(len(source))]
    captions = [pair.captions for pair in pairs]
    questions = [
        labelled
        for labelled in caption_questions(captions, TRAINING_AGREED, TRAINING_MOST)
        if labelled.kind in HEAD_SHARES
    ]
    (folder / "pictures").mkdir(parents=True)
    for number in {labelled.picture for labelled in questions}:
        (folder / "pictures" / f"{number}.webp").write_bytes(pairs[number].picture)
    with (folder / "questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "question", "answer"))
        for labelled in rephrase(questions):
            for answer in labelled.right:
                writer.writerow((f"pictures/{labelled.picture}.webp", labelled.question, answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_training_set(arguments.pairs, arguments.folder)
