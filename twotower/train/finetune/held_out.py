"""Held-out pictures with captions or class names, on which models are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.pairs.pair import Pair
from twotower.pairs.sources import open_source
from twotower.train.recipes import EMOJI

RESAMPLES = 2000  # of the bootstrap

# CLDR names of emoji of visible things: the outside set of those who give none
DRAWN_THINGS = frozenset(
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
    """Pictures, texts and the assignment between them.

    Attributes:
        measure: what `hits` counts, for people.
        owners: with captions [T], the picture of each; with class names [n], the text of each
            picture.
        classnames: True if the texts are names of classes, so that a picture has one of them.
        top_k: with class names, the score is the mean of top-1 to top-k accuracy. It has a smaller
            error than one of them, as a right answer that falls by one rank costs 1 / top_k.
    """

    name: str
    measure: str
    pictures: Sequence[bytes]
    texts: list[str]
    owners: Int64Array
    classnames: bool
    top_k: int = 1

    def hits(self, image_embeds: Float32Array, text_embeds: Float32Array) -> Float64Array:
        """Return the score of each picture, from 0 to 1: [n].

        With class names: the share of 1 to `top_k` that are at least the rank of the right one,
        where ties count against it. With captions: the mean of both directions, 1 if the best text
        is one of the picture's captions, and the share of its captions whose best picture it is.
        Only scores on the same set are comparable.

        Args:
            image_embeds: [n, embed_dim].
            text_embeds: [T, embed_dim].
        """
        scores = image_embeds @ text_embeds.T  # [n, T]
        if self.classnames:
            correct = scores[np.arange(len(scores)), self.owners]
            ranks = (scores >= correct[:, None]).sum(axis=1)  # from 1
            return np.clip((self.top_k + 1 - ranks) / self.top_k, 0.0, 1.0)
        image_to_text = self.owners[scores.argmax(axis=1)] == np.arange(len(scores))
        text_to_image = scores.argmax(axis=0) == self.owners  # [T]
        count = np.bincount(self.owners, minlength=len(scores))
        share = np.bincount(self.owners, weights=text_to_image, minlength=len(scores)) / count
        return np.asarray((image_to_text + share) / 2, np.float64)

    def subset(self, rows: Sequence[int]) -> HeldOutSet:
        """Return the set with some of its pictures."""
        pictures = [self.pictures[row] for row in rows]
        if self.classnames:
            return replace(self, pictures=pictures, owners=self.owners[list(rows)])
        new_rows = {row: index for index, row in enumerate(rows)}
        kept = [text for text, owner in enumerate(self.owners.tolist()) if owner in new_rows]
        owners = np.array([new_rows[int(self.owners[text])] for text in kept])
        return replace(
            self, pictures=pictures, texts=[self.texts[text] for text in kept], owners=owners
        )


def are_classnames(pairs: Sequence[Pair]) -> bool:
    """Return True if captions are names of classes: one for each picture, and few of them."""
    captions = {pair.captions for pair in pairs}
    return all(len(texts) == 1 for texts in captions) and 2 * len(captions) <= len(pairs)


def hold_out(
    name: str, pairs: Sequence[Pair], template: str, classnames: Sequence[str] = ()
) -> HeldOutSet:
    """Make a held-out set of pairs.

    Args:
        template: the sentence around class names.
        classnames: the classes, if the captions are their names.
    """
    pictures = [pair.picture for pair in pairs]
    if classnames:
        index = {classname: number for number, classname in enumerate(classnames)}
        owners = np.array([index[pair.captions[0]] for pair in pairs])
        texts = [template.replace("{}", classname) for classname in classnames]
        measure = f"top-1 of {len(classnames)} names"
        return HeldOutSet(name, measure, pictures, texts, owners, classnames=True)
    texts = [caption for pair in pairs for caption in pair.captions]
    owners = np.repeat(np.arange(len(pairs)), [len(pair.captions) for pair in pairs])
    measure = f"recall at 1 among {len(pairs)} pictures, mean of both ways"
    return HeldOutSet(name, measure, pictures, texts, owners, classnames=False)


def hold_out_emoji(template: str) -> HeldOutSet:
    """Return the outside set of the package: an emoji of each thing, and all their names.

    Two artists take turns, since a second drawing of the same thing would cost as much time as the
    first and show less.
    """
    classnames = sorted(DRAWN_THINGS)
    artists = {name: number % 2 for number, name in enumerate(classnames)}
    sources = [open_source(EMOJI / tar) for tar in ("noto.tar", "twemoji.tar")]
    pairs = [
        pair
        for artist, source in enumerate(sources)
        for pair in map(source.__getitem__, range(len(source)))
        if artists.get(pair.captions[0]) == artist
    ]
    emoji = hold_out("drawn things (emoji by Noto and Twemoji)", pairs, template, classnames)
    return replace(emoji, measure=f"mean of top-1 to top-5 of {len(classnames)} names", top_k=5)


def difference_interval(
    before: Float64Array, after: Float64Array, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the mean of after - before, by resampling pictures."""
    difference = after - before
    random = np.random.default_rng(seed)
    rows = random.integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[rows].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
