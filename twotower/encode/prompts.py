"""Prompt templates and everyday words, as data."""

from __future__ import annotations

# The seven templates that OpenAI found to do as well as all eighty of ImageNet's
# (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb), after the plain one.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    "ensemble": (
        "a photo of a {}.",
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}

# What a picture may show that nobody listed. "None of these" is the share of probability that
# these take from the labels; those that mean nearly the same as a label are left out.
EVERYDAY = tuple(
    "person man woman child baby crowd face hand dog cat bird horse cow sheep elephant bear fish "
    "insect butterfly spider snake frog flower tree forest grass leaf mountain beach sea lake "
    "river waterfall desert snow sky cloud sunset night star moon fire rain street city building "
    "house church castle bridge tower road field garden farm kitchen bedroom bathroom office "
    "classroom shop restaurant stadium car truck bus train bicycle motorcycle boat ship airplane "
    "rocket chair table sofa bed lamp window door book newspaper computer keyboard telephone "
    "television camera clock cup bottle plate knife spoon bowl bread cake pizza fruit apple banana "
    "orange vegetable salad meat soup coffee wine shirt dress shoe hat bag toy doll ball guitar "
    "piano drum painting drawing statue map diagram text sign screenshot document receipt money "
    "tool machine robot gun box pattern texture".split()
)
