"""Questions with answers on disk: VQA's JSON, easy-VQA's, or a table `image, question, answer`."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.errors import PairsError, TrainError
from twotower.inputs.pictures import PICTURE_SUFFIXES
from twotower.pairs.tables import read_table

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
IMAGE_COLUMNS = ("image", "image_path", "filepath", "file", "picture", "path")


@dataclass(frozen=True)
class Sample:
    """A question about a picture, and how many people gave each answer."""

    picture: Path
    question: str
    answers: tuple[tuple[str, int], ...]

    @property
    def answer(self) -> str:
        """The most frequent one."""
        return max(self.answers, key=lambda one: one[1])[0]

    def score(self, answer: str) -> float:
        """How right an answer is: 1 if three people gave it (or all, where there are fewer).

        VQA's own measure (Antol et al. 2015), without its averaging over nine of ten people.
        """
        people = sum(count for _, count in self.answers)
        return min(1.0, dict(self.answers).get(answer, 0) / min(3, people))


def read_samples(location: Path) -> list[Sample]:
    """All samples of a table or folder.

    A folder holds VQA's `*questions*.json` and `*annotations*.json`, or easy-VQA's
    `questions.json` of [question, answer, picture's number], and the pictures, anywhere below it;
    a picture's number is what its name ends with.

    Raises:
        TrainError: nothing is there, or it is of no form that is known.
    """
    if location.is_file() and location.suffix.lower() in TABLES:
        samples = _from_table(location)
    elif location.is_dir():
        samples = _from_folder(location)
    else:
        raise TrainError(
            f"{location}: no folder and no table ({', '.join(TABLES)}); give one with questions"
        )
    if not samples:
        raise TrainError(f"{location}: no question in it has a picture and an answer")
    return samples


def _from_table(path: Path) -> list[Sample]:
    try:
        if path.suffix.lower() == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [dict(json.loads(line)) for line in lines if line.strip()]
        else:
            rows = read_table(path)
    except PairsError as error:
        raise TrainError(str(error)) from None
    except ValueError as error:
        raise TrainError(f"{path}: not JSON, an object on each line ({error})") from None
    columns = rows[0].keys() if rows else ()
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image is None or "question" not in columns or "answer" not in columns:
        raise TrainError(
            f"{path}: needs the columns image, question and answer; it has {', '.join(columns)}"
        )
    return [
        Sample(path.parent / str(row[image]), str(row["question"]), _counted(row["answer"]))
        for row in rows
        if row["question"] and row["answer"] is not None
    ]


def _from_folder(folder: Path) -> list[Sample]:
    files = sorted(folder.rglob("*.json"))
    asked = [path for path in files if "question" in path.name.lower()]
    given = [path for path in files if "annotation" in path.name.lower()]
    if not asked:
        raise TrainError(f"{folder}: holds no *questions*.json; see docs/asking.md for the forms")
    pictures = _numbered(folder)
    try:
        trees = [json.loads(path.read_text(encoding="utf-8")) for path in asked]
        answers = {
            one["question_id"]: _counted([each["answer"] for each in one["answers"]])
            for path in given
            for one in json.loads(path.read_text(encoding="utf-8"))["annotations"]
        }
        rows: list[tuple[int, str, Any]] = []
        for tree in trees:
            if isinstance(tree, list):
                rows += [(number, question, _counted(answer)) for question, answer, number in tree]
            else:
                rows += [
                    (one["image_id"], one["question"], answers.get(one["question_id"], ()))
                    for one in tree["questions"]
                ]
    except (ValueError, KeyError, TypeError) as error:
        raise TrainError(
            f"{folder}: not VQA's JSON ({type(error).__name__}: {error}); see docs/asking.md"
        ) from None
    return [
        Sample(pictures[number], question, counted)
        for number, question, counted in rows
        if number in pictures and counted
    ]


def _numbered(folder: Path) -> dict[int, Path]:
    """Pictures by the number that their names end with."""
    found = {}
    for path in sorted(folder.rglob("*")):
        match = re.search(r"(\d+)$", path.stem)
        if match and path.suffix.lower() in PICTURE_SUFFIXES:
            found[int(match[1])] = path
    return found


def _counted(given: Any) -> tuple[tuple[str, int], ...]:
    """One answer or many people's, as (answer, how many), in plain form."""
    listed = given if isinstance(given, list) else [given]
    return tuple(Counter(plain_answer(str(one)) for one in listed).items())


def plain_answer(answer: str) -> str:
    """Lower case, without articles and final dots, British spelling of colour and grey."""
    answer = re.sub(r"^(a|an|the) ", "", answer.strip().lower().rstrip("."))
    return re.sub(r"\bgray\b", "grey", re.sub(r"\bcolor", "colour", answer))
