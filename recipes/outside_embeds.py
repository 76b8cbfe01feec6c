"""Store the image_embeds of the outside set of fine-tuning, by the default model.

    python -m recipes.outside_embeds

Run it again after the image tower of the default model or the outside set has changed.
"""

from __future__ import annotations

from twotower.encode.load import find_model
from twotower.train.embed_cache import sample_key
from twotower.train.finetune.frozen_model import FrozenModel
from twotower.train.finetune.held_out import hold_out_emoji
from twotower.train.finetune.stored_embeds import write_stored_embeds


def main() -> None:
    """Embed the pictures of the outside set and write their vectors."""
    directory = find_model()
    pictures = hold_out_emoji("{}").pictures
    image_embeds = FrozenModel(directory).image_embeds(pictures)
    write_stored_embeds([sample_key(picture) for picture in pictures], image_embeds, directory)


if __name__ == "__main__":
    main()
