"""What a fine-tuned model is asked before and after: pictures with captions, or with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source

EMOJI = Path(__file__).parents[1] / "emoji"
RESAMPLES = 2000  # of the bootstrap

# Emoji of things that can be seen, by their CLDR names: the outside set of whoever has no better
DRAWN = frozenset(
    "airplane ambulance anchor ant astronaut avocado axe baby backpack badger balloon banana "
    "baseball basket basketball bat bathtub bear beaver bed beetle bell bicycle bird bison bone "
    "books bread briefcase broccoli broom bucket bus butterfly cactus calendar camel camera candle "
    "candy canoe carrot castle cat chair cherries chicken chipmunk church cigarette cloud coat "
    "cockroach coconut coffin coin comet compass cookie coral cow crab cricket crocodile croissant "
    "crown cucumber cupcake deer desert dog dolphin donkey door doughnut dragon dress drum duck "
    "dumpling eagle ear egg eggplant elephant envelope eye factory feather ferry fire fireworks "
    "fish flamingo flashlight flute fly foot fountain fox frog garlic ghost giraffe glasses gloves "
    "goat goose gorilla grapes guitar hamburger hammer hamster handbag hedgehog helicopter "
    "hippopotamus horse hospital house ice jar jeans jellyfish kangaroo key keyboard kimono kite "
    "koala ladder laptop lemon leopard lion lipstick lizard llama lobster locomotive lollipop "
    "luggage mango microphone microscope mirror monkey monorail moose mosque mosquito motorcycle "
    "mountain mouse mouth mushroom necktie newspaper nose octopus onion orangutan otter owl ox "
    "oyster paintbrush pancakes panda parachute parrot peach peacock pear pen pencil penguin pie "
    "pig pineapple pizza popcorn potato pretzel rabbit raccoon radio rainbow ram rat ring robot "
    "rock rocket rooster rose sailboat sandwich satellite saxophone scarf school scissors scorpion "
    "screwdriver seal shark ship shorts shovel shrimp skateboard skull skunk sled sloth snail "
    "snake snowflake snowman soap socks spaghetti spider spoon squid stadium star stethoscope "
    "strawberry sun sunflower sunglasses sunset sushi swan syringe taco taxi teapot telephone "
    "telescope television tent thermometer tiger toilet tomato tooth toothbrush tornado tractor "
    "train trophy trumpet tulip turkey turtle umbrella unicorn violin volcano waffle watch "
    "watermelon whale wheel window wolf worm wrench yarn zebra".split()
)


@dataclass(frozen=True)
class HeldOutSet:
    """Pictures and texts, and which belong together."""

    name: str
    measure: str  # what `hits` counts, for people
    pictures: Sequence[bytes]
    texts: list[str]
    owners: NDArray[np.int64]  # captions: [T], their pictures; names: [n], the text of each picture
    names: bool  # whether the texts are all names of classes, so that a picture has one of them
    best: int = 1  # how many answers are looked at

    def hits(
        self, image_embeds: NDArray[np.float32], text_embeds: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """How well each picture does, from 0 to 1: [n].

        With names, whether the right one is among the `best` nearest, ties counting against it.
        With captions, the mean of both ways: whether the nearest text is one of its own, and how
        many of its captions find it.
        Only scores of the same exam may be compared.
        """
        scores = image_embeds @ text_embeds.T  # [n, T]
        if self.names:
            right = scores[np.arange(len(scores)), self.owners]
            return np.asarray((scores >= right[:, None]).sum(axis=1) <= self.best, np.float64)
        finds_text = self.owners[scores.argmax(axis=1)] == np.arange(len(scores))
        found = scores.argmax(axis=0) == self.owners  # [T]
        count = np.bincount(self.owners, minlength=len(scores))
        share = np.bincount(self.owners, weights=found, minlength=len(scores)) / count
        return np.asarray((finds_text + share) / 2, np.float64)

    def part(self, rows: Sequence[int]) -> HeldOutSet:
        """The same questions about some of the pictures."""
        pictures = [self.pictures[row] for row in rows]
        if self.names:
            owners = self.owners[list(rows)]
            return HeldOutSet(
                self.name, self.measure, pictures, self.texts, owners, self.names, self.best
            )
        new = {row: index for index, row in enumerate(rows)}
        kept = [t for t, owner in enumerate(self.owners.tolist()) if owner in new]
        owners = np.array([new[int(self.owners[t])] for t in kept])
        texts = [self.texts[t] for t in kept]
        return HeldOutSet(self.name, self.measure, pictures, texts, owners, self.names, self.best)


def are_names(pairs: Sequence[Pair]) -> bool:
    """Whether captions are names of classes: one a picture, and few of them."""
    captions = {pair.captions for pair in pairs}
    return all(len(one) == 1 for one in captions) and 2 * len(captions) <= len(pairs)


def open_held_out(
    name: str, pairs: Sequence[Pair], template: str, names: Sequence[str] = ()
) -> HeldOutSet:
    """The exam that pairs make.

    Args:
        template: the sentence around names.
        names: the classes, where the captions are names of such.
    """
    pictures = [pair.picture for pair in pairs]
    if names:
        index = {one: number for number, one in enumerate(names)}
        owners = np.array([index[pair.captions[0]] for pair in pairs])
        texts = [template.replace("{}", one) for one in names]
        return HeldOutSet(name, f"top-1 of {len(names)} names", pictures, texts, owners, names=True)
    texts = [caption for pair in pairs for caption in pair.captions]
    owners = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    measure = f"recall at 1 among {len(pairs)} pictures, mean of both ways"
    return HeldOutSet(name, measure, pictures, texts, owners, names=False)


def drawn_things(template: str) -> HeldOutSet:
    """The outside set that comes with the package: what two artists drew, top-5 of its names."""
    sources = [open_source(EMOJI / tar) for tar in ("noto.tar", "twemoji.tar")]
    pairs = [
        pair
        for source in sources
        for pair in map(source.__getitem__, range(len(source)))
        if pair.captions[0] in DRAWN
    ]
    names = sorted(DRAWN)
    exam = open_held_out("drawn things (emoji by Noto and Twemoji)", pairs, template, names)
    return HeldOutSet(
        exam.name, f"top-5 of {len(names)} names", exam.pictures, exam.texts, exam.owners, True, 5
    )


def difference_interval(
    before: NDArray[np.float64], after: NDArray[np.float64], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of after - before, by resampling pictures."""
    difference = after - before
    random = np.random.default_rng(seed)
    rows = random.integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[rows].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
