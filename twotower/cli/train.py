"""`twotower train`: recipes of trainings, and the curves of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.output import DEFAULT, OK, positive, print_failures, size_in_bytes
from twotower.cli.pairs import SOURCE

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.train.config import TrainConfig


ARCHITECTURE = "ViT-B-32"  # of a run that names no model


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("train", help="train a model")
    recipes = command.add_subparsers(required=True, metavar="RECIPE")
    command = recipes.add_parser("pretrain", help="train on image-text pairs")
    command.set_defaults(run=run_train_pretrain)
    _add_pretraining(command)

    command = recipes.add_parser("distill", help="train on pairs and on a larger model's embeds")
    command.set_defaults(run=run_train_distill)
    command.add_argument("--teacher", help="a model, which embeds each pair once")
    _add_pretraining(command)

    _add_folder(recipes)
    _add_vqa(recipes)

    command = recipes.add_parser("emoji", help="a first training, in under five minutes")
    command.set_defaults(run=run_train_emoji)
    command.add_argument("--run", type=Path, required=True, dest="folder", help="the run's folder")
    _add_settings(command)
    command.add_argument("--resume", metavar="CHECKPOINT", help='a checkpoint, or "latest"')

    command = recipes.add_parser("plot", help="draw loss, scale, learning rate and speed of a run")
    command.set_defaults(run=run_train_plot)
    command.add_argument("folder", type=Path, help="the run's folder")


def _add_folder(recipes: Commands) -> None:
    command = recipes.add_parser("folder", help="fine-tune a model on your own pictures")
    command.set_defaults(run=run_train_folder)
    command.add_argument("pairs", help=f"{SOURCE}, or in folders named after their content")
    command.add_argument("--run", type=Path, required=True, dest="folder", help="the run's folder")
    command.add_argument("--model", help=f"the model to start from ({DEFAULT})")
    command.add_argument(
        "--method",
        choices=("texts", "full", "lora"),
        default="texts",
        help="fit vectors of texts; full and lora also train both towers (texts)",
    )
    command.add_argument("--outside", metavar="DATA", help="pairs it should not get worse at")
    command.add_argument(
        "--may-lose",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="loss of outside score that is allowed; another one chooses again (1)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="longest time for training the towers (10)",
    )
    _add_settings(command)


def _add_vqa(recipes: Commands) -> None:
    command = recipes.add_parser("vqa", help="train a head that answers questions")
    command.set_defaults(run=run_train_vqa)
    command.add_argument("data", type=Path, help="a folder or table (docs/asking.md)")
    command.add_argument("destination", type=Path, help="the head to write, for ask --head")
    command.add_argument(
        "--test", type=Path, help="questions to test it with (a tenth of the data)"
    )
    command.add_argument("--model", help=f"the model whose towers it uses ({DEFAULT})")
    command.add_argument("--epochs", type=positive, default=12, help="number of epochs (12)")


def _add_pretraining(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "pairs", nargs="*", help=f"{SOURCE} (several: several sources); with --resume the run's"
    )
    command.add_argument("--run", type=Path, required=True, dest="folder", help="the run's folder")
    command.add_argument(
        "--model",
        help="a preset, a JSON file of an architecture, or weights to start from (ViT-B-32)",
    )
    command.add_argument("--batch-size", type=positive, help="pairs of all ranks (1024)")
    length = command.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive, help="number of steps")
    length.add_argument("--epochs", type=positive, help="passes over the pairs (32)")
    command.add_argument("--memory", type=size_in_bytes, help="limit for a rank, such as 8GB")
    _add_settings(command)
    command.add_argument(
        "--resume", metavar="CHECKPOINT", help='a checkpoint, or "latest"; options change the run'
    )
    command.add_argument("--dry-run", action="store_true", help="print the plan and end")


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.NAME=VALUE",
        dest="settings",
        help="change a field of TrainConfig, such as optimizer.lr=1e-4",
    )


def run_train_pretrain(arguments: argparse.Namespace) -> int:
    from twotower.train.recipes import pretrain

    if arguments.resume:
        return _train(_resumed(arguments), arguments)
    _require_pairs(arguments)
    config = pretrain(arguments.pairs, arguments.model or ARCHITECTURE, **_pretraining(arguments))
    return _train(config, arguments)


def run_train_distill(arguments: argparse.Namespace) -> int:
    from twotower.encode.load import find_model
    from twotower.errors import TrainError
    from twotower.train.recipes import distill

    if arguments.resume:
        return _train(_resumed(arguments), arguments)
    _require_pairs(arguments)
    if not arguments.teacher:
        raise TrainError("train distill", "no teacher", "name a model with --teacher")
    teacher, model = find_model(arguments.teacher), arguments.model or ARCHITECTURE
    return _train(distill(arguments.pairs, model, teacher, **_pretraining(arguments)), arguments)


def _require_pairs(arguments: argparse.Namespace) -> None:
    from twotower.errors import TrainError

    if not arguments.pairs:
        raise TrainError("train", "no pairs", "name them, or resume a run with --resume latest")


def _pretraining(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given; the functions have the defaults."""
    names = ("batch_size", "steps", "epochs", "memory", "settings")
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _resumed(arguments: argparse.Namespace) -> TrainConfig:
    """Return the configuration of the run, with the options that were given."""
    from twotower.train.resume import resume_config

    teacher = getattr(arguments, "teacher", None)
    config = resume_config(
        arguments.folder,
        arguments.resume,
        sources=arguments.pairs,
        model=arguments.model,
        **_pretraining(arguments),
    )
    return _with_teacher(config, teacher) if teacher else config


def _with_teacher(config: TrainConfig, teacher: str) -> TrainConfig:
    from twotower.encode.load import find_model
    from twotower.train.config import with_values

    return with_values(config, {"loss.teacher": str(find_model(teacher))})


def _train(config: TrainConfig, arguments: argparse.Namespace) -> int:
    from twotower.cli.train_progress import show_training
    from twotower.train.curves import explain
    from twotower.train.estimate import describe
    from twotower.train.loop import check_run, train

    if arguments.dry_run:
        check_run(config, arguments.folder, arguments.resume)
        print("\n".join(describe(config)))
        return OK
    with show_training(config) as (report, progress):
        directory = train(config, arguments.folder, arguments.resume, report, progress)
    print(f"Wrote the model {directory}. Use it with --model {directory}")
    for advice in explain(arguments.folder):
        print(advice)
    return OK


def run_train_folder(arguments: argparse.Namespace) -> int:
    from twotower.cli.train_progress import print_progress, print_row
    from twotower.train.finetune.fit import fit

    card = fit(
        arguments.pairs,
        arguments.folder,
        model=arguments.model,
        method=arguments.method,
        outside=arguments.outside,
        may_lose=arguments.may_lose / 100,
        minutes=arguments.minutes,
        settings=arguments.settings,
        progress=print_progress(),
        report=print_row,
    )
    print_failures(card.broken)
    print("\n".join(card.lines()))
    print()
    model = arguments.folder / "model"
    print(f"Wrote the model {model}. Use it with --model {model}")
    return OK


def run_train_vqa(arguments: argparse.Namespace) -> int:
    import numpy as np

    from twotower.cli.train_progress import print_progress
    from twotower.encode.load import find_model
    from twotower.evaluate.intervals import bootstrap_shares
    from twotower.train.vqa.head import train_vqa

    scores = train_vqa(
        arguments.data,
        arguments.destination,
        find_model(arguments.model),
        test=arguments.test,
        epochs=arguments.epochs,
        progress=print_progress(),
    )
    print_failures(scores.unreadable)
    columns = np.stack([scores.head, scores.prior], axis=1)
    intervals = bootstrap_shares(columns, np.ones(len(columns)))
    for name, values, (low, high) in zip(
        ("correct", "correct without the picture"), columns.T, intervals, strict=True
    ):
        print(f"{values.mean():6.1%} ({low:.1%} to {high:.1%})  {name}, {len(values)} questions")
    head = arguments.destination
    print(f"Wrote the head {head}. Use it with: twotower ask --head {head}")
    return OK


def run_train_emoji(arguments: argparse.Namespace) -> int:
    from twotower.cli.train_progress import show_training
    from twotower.train.config import with_settings
    from twotower.train.curves import draw_confusions, plot
    from twotower.train.loop import train
    from twotower.train.recipes import emoji
    from twotower.train.resume import resume_config
    from twotower.train.run_log import read_log

    if arguments.resume:
        config = resume_config(arguments.folder, arguments.resume, settings=arguments.settings)
    else:
        config = with_settings(emoji(), arguments.settings)
    with show_training(config) as (report, progress):
        directory = train(config, arguments.folder, arguments.resume, report, progress)
    held_out = config.validation.zero_shot
    assert held_out is not None
    top1 = read_log(arguments.folder)[-1]["zero_shot_top1"]
    print(f"Named {top1:.1%} of another artist's emoji correctly, among 1526 names.")
    print(f"Wrote the model {directory}")
    print(f"Wrote the curves of loss and scores {plot(arguments.folder)}")
    print(f"Wrote the worst confusions {draw_confusions(arguments.folder, held_out)}")
    return OK


def run_train_plot(arguments: argparse.Namespace) -> int:
    from twotower.train.curves import plot

    print(f"Wrote the curves {plot(arguments.folder)}")
    return OK
