"""Questions with answers on disk: VQA's JSON, easy-VQA's, or a table `image, question, answer`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from twotower.errors import PairsError, TrainError
from twotower.inputs.pictures import PICTURE_SUFFIXES
from twotower.pairs.tables import read_table

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
IMAGE_COLUMNS = ("image", "image_path", "filepath", "file", "picture", "path")
FORMATS = "see docs/asking.md for the formats"

AnswerCounts: TypeAlias = tuple[tuple[str, int], ...]  # answers, and the people that gave each
NumberedQuestion: TypeAlias = tuple[int, str, AnswerCounts]  # the number is the picture's


@dataclass(frozen=True)
class Sample:
    """A question about a picture, and the answers that people gave."""

    picture: Path
    question: str
    answers: AnswerCounts

    @property
    def answer(self) -> str:
        """The most frequent answer."""
        return max(self.answers, key=lambda answer: answer[1])[0]

    def score(self, answer: str) -> float:
        """Return 1 if three people gave the answer (or all, if there are fewer), else a share.

        VQA's measure (Antol et al. 2015), without its averaging over nine of ten people.
        """
        people = sum(count for _, count in self.answers)
        return min(1.0, dict(self.answers).get(answer, 0) / min(3, people))


def read_samples(location: Path) -> list[Sample]:
    """Read all samples of a table or folder.

    A folder holds VQA's `*questions*.json` and `*annotations*.json`, or easy-VQA's
    `questions.json` of [question, answer, picture's number], and the pictures, in any subfolder.
    The number of a picture is the end of its name.

    Raises:
        TrainError: nothing is there, or its format is unknown.
    """
    if location.is_file() and location.suffix.lower() in TABLES:
        samples = _read_questions_of_table(location)
    elif location.is_dir():
        samples = _read_questions_of_folder(location)
    else:
        raise TrainError(
            location, f"no folder and no table ({', '.join(TABLES)})", "give one with questions"
        )
    if not samples:
        raise TrainError(location, "no question in it has a picture and an answer", FORMATS)
    return samples


def _read_questions_of_table(path: Path) -> list[Sample]:
    rows = _read_rows(path)
    columns = rows[0].keys() if rows else ()
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image is None or "question" not in columns or "answer" not in columns:
        raise TrainError(
            path,
            f"needs the columns image, question and answer; it has {', '.join(columns)}",
            FORMATS,
        )
    return [
        Sample(path.parent / str(row[image]), str(row["question"]), count_answers(row["answer"]))
        for row in rows
        if row["question"] and row["answer"] is not None
    ]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix.lower() != ".jsonl":
            return read_table(path)
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold U+2028
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except PairsError as error:
        raise TrainError(error.subject, error.reason, error.remedy) from None
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainError(path, f"not JSON, an object on each line ({error})", FORMATS) from None


def _read_questions_of_folder(folder: Path) -> list[Sample]:
    files = sorted(folder.rglob("*.json"))
    question_files = [path for path in files if "question" in path.name.lower()]
    if not question_files:
        raise TrainError(folder, "holds no *questions*.json", FORMATS)
    pictures = _pictures_by_number(folder)
    try:
        answers = _read_annotations(path for path in files if "annotation" in path.name.lower())
        questions = [
            question for path in question_files for question in _read_questions(path, answers)
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"not VQA's JSON ({type(error).__name__}: {error})"
        raise TrainError(folder, reason, FORMATS) from None
    return [
        Sample(pictures[number], question, answer_counts)
        for number, question, answer_counts in questions
        if number in pictures and answer_counts
    ]


def _read_annotations(paths: Iterable[Path]) -> dict[Any, AnswerCounts]:
    """Read VQA's annotations: answers by the id of the question."""
    return {
        annotation["question_id"]: count_answers(
            [answer["answer"] for answer in annotation["answers"]]
        )
        for path in paths
        for annotation in json.loads(path.read_text(encoding="utf-8"))["annotations"]
    }


def _read_questions(path: Path, answers: Mapping[Any, AnswerCounts]) -> list[NumberedQuestion]:
    """Read a file of easy-VQA, which holds answers, or of VQA, whose answers are apart."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(tree, list):
        return [(number, question, count_answers(answer)) for question, answer, number in tree]
    return [
        (question["image_id"], question["question"], answers.get(question["question_id"], ()))
        for question in tree["questions"]
    ]


def _pictures_by_number(folder: Path) -> dict[int, Path]:
    """Return pictures by the number at the end of their names."""
    pictures = {}
    for path in sorted(folder.rglob("*")):
        match = re.search(r"(\d+)$", path.stem)
        if match and path.suffix.lower() in PICTURE_SUFFIXES:
            pictures[int(match[1])] = path
    return pictures


def count_answers(answers: Any) -> AnswerCounts:
    """Count one answer or a list of many people's answers, in plain form."""
    listed = answers if isinstance(answers, list) else [answers]
    return tuple(Counter(plain_answer(str(answer)) for answer in listed).items())


def plain_answer(answer: str) -> str:
    """Return an answer in lower case, without articles and final dots, in British spelling."""
    answer = re.sub(r"^(a|an|the) ", "", answer.strip().lower().rstrip("."))
    return re.sub(r"\bgray\b", "grey", re.sub(r"\bcolor", "colour", answer))
