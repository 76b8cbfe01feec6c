"""Write docs/models.md from the registry of named models.

python docs/models_page.py
"""

from __future__ import annotations

from pathlib import Path

from twotower.encode.registry import FAST_GFLOPS, NamedModel, choose_models, read_registry

PAGE = Path(__file__).with_name("models.md")
HEAD = """# Models by name

Made from `twotower/encode/models.json` by `python docs/models_page.py`.

Every command with `--model`, and `twotower.load`, take these names. `twotower models` prints the
table, marks what is on this computer and recommends one by need:

| need | command | now recommends |
|---|---|---|
{recommendations}

Models of the hub are downloaded at their first use, without copies of their weights for other
libraries, and converted once. The commit and the SHA-256 of each file are those below, or else
they are recorded at the first download (in `~/.cache/twotower/hub`); a file that differs later is
an error. After the first download no network is needed. Any other repository is `--model
hf-hub:org/name`, or `hf-hub:org/name@revision`.

{header}
{rows}

ImageNet is the published zero-shot top-1 accuracy and COCO the recall@1, in percent; "-" where no
source was read. GFLOP are for the image tower and a picture, parameters in millions. Languages are
those in which at least 40 % of Crossmodal-3600's captions find their picture first, and English;
"multilingual" is what the authors say. A licence that is not named is on the model's page.

## Check the settings of a model

A wrong activation, normalisation, resize, padding or end of text is no error, only a worse model.
`twotower verify MODEL --suspect FOLDER` tries the plausible settings on pictures in folders (or
files) named after their content, compares the log-probabilities of the right words picture by
picture, and suspects a setting if another is better by 0.05 nats a picture and by 4 standard
errors. Some need torch. Give hundreds of pictures: with `twotower-small` declared to have mean 0
and deviation 1, its true 0.5 was better by 8.4 standard errors on 500 ImageNet photographs (67 %
right instead of 58 %), but by 1.5 on the 50 example photographs; and on those, `twotower-base` with
GELU instead of its QuickGELU cannot be told from the true one.

## Sources

{sources}
"""
COLUMNS = (
    *("name", "ImageNet", "COCO, text to image", "COCO, image to text", "GFLOP", "parameters"),
    *("dimensions", "pixels", "tokens", "languages", "licence"),
)
NEEDS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("the most accurate", "twotower models --best", {"best": True}),
    (f"at most {FAST_GFLOPS:.0f} GFLOP a picture", "twotower models --fast", {"fast": True}),
    ("German and Chinese", "twotower models --languages de,zh", {"languages": ("de", "zh")}),
    (
        "German and Chinese, and fast",
        "twotower models --fast --languages de,zh",
        {"fast": True, "languages": ("de", "zh")},
    ),
    ("at most 700 MB", "twotower models --max-size 700MB", {"max_size": 700_000_000}),
    ("at most 250 MB", "twotower models --max-size 250MB", {"max_size": 250_000_000}),
)


def page() -> str:
    """Return the text of docs/models.md."""
    registry = read_registry()
    recommendations = [
        f"| {need} | `{command}` | `{choose_models(**needs)[0].name}` |"  # type: ignore[arg-type]
        for need, command, needs in NEEDS
    ]
    used = {key for model in registry.models for key in model.sources.values()}
    return HEAD.format(
        recommendations="\n".join(recommendations),
        header=f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|",
        rows="\n".join(map(_row, registry.models)),
        sources="\n".join(
            f"- {key}: {address}" for key, address in registry.sources.items() if key in used
        )
        + "\n\n"
        + "\n".join(map(_sources_of, registry.models)),
    )


def _row(model: NamedModel) -> str:
    cells = [
        f"`{model.name}`",
        model.imagenet,
        model.coco_text_to_image,
        model.coco_image_to_text,
        None if model.gflops is None else f"{model.gflops:.0f}",
        None if model.parameters is None else f"{model.parameters:.0f}",
        model.embed_dim,
        model.image_size,
        model.context_length,
        ", ".join(model.languages) or None,
        model.licence,
    ]
    return f"| {' | '.join('-' if cell is None else str(cell) for cell in cells)} |"


def _sources_of(model: NamedModel) -> str:
    pins = ""
    if model.revision:
        pins = f", commit `{model.revision}`"
        pins += "".join(f", `{name}` {digest}" for name, digest in (model.sha256 or {}).items())
    repository = f"`{model.hub}`" if model.hub else "in the package"
    groups = ", ".join(f"{group}: {key}" for group, key in model.sources.items())
    return f"- `{model.name}`: {repository}{pins} ({groups})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
