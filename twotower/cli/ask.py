"""`twotower ask`: questions about pictures, and about a library of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.index import add_library_option
from twotower.cli.output import (
    FAILED,
    OK,
    add_model_options,
    positive,
    print_array,
    printable,
    shown_path,
    to_json,
    track,
)
from twotower.cli.search import hit_tree, open_library, percent

if TYPE_CHECKING:
    from twotower.asking.answer import Answered
    from twotower.asking.library_questions import LibraryAnswer, LibraryQuestion
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("ask", help="ask questions about pictures")
    command.set_defaults(run=run_ask)
    command.add_argument(
        "words",
        nargs="+",
        metavar="PICTURE ... QUESTION ...",
        help="pictures or a folder (or the library you are in), then questions; - reads questions "
        "from stdin, one on each line",
    )
    add_library_option(command)
    command.add_argument("--answers", help='those to choose from ("red, blue")')
    command.add_argument(
        "--head", type=Path, metavar="DIR", help="a trained head that answers (twotower train vqa)"
    )
    command.add_argument(
        "--vlm", metavar="URL", help="an OpenAI-compatible server with a large model that answers"
    )
    command.add_argument("--vlm-model", metavar="NAME", help="its model (the first it lists)")
    command.add_argument("--top", type=positive, default=3, help="answers to a question (3)")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    add_model_options(command)


def run_ask(arguments: argparse.Namespace) -> int:
    from twotower.errors import QuestionError

    places, questions = split_words(arguments.words, sys.stdin)
    asked = [(question, _of_library(question, places)) for question in questions]
    of_library = [parsed for _, parsed in asked if parsed]
    of_pictures = [question for question, parsed in asked if not parsed]
    if of_library:
        _refuse_options(of_library[0].text, arguments)
    if of_library and of_pictures and arguments.json:
        raise QuestionError(
            f"{of_library[0].text!r} is about a library and {of_pictures[0]!r} about single "
            "pictures; ask for their JSON one after the other"
        )
    if of_library:
        ask_library_of(places, of_library, arguments)
    failed = ask_pictures(places, of_pictures, arguments) if of_pictures else 0
    return FAILED if failed else OK


def _of_library(question: str, places: list[str]) -> LibraryQuestion | None:
    """What it asks of a library; None if it is about single pictures, or has no words at all.

    Raises:
        QuestionError: it can be about a library alone, and what is asked is not one folder.
    """
    from twotower.asking.library_questions import is_about_library, parse_library_question
    from twotower.asking.questions import plain
    from twotower.errors import QuestionError

    try:
        plain(question)
    except QuestionError:  # is said where the others are answered
        return None
    if not places or (len(places) == 1 and Path(places[0]).is_dir()):
        return parse_library_question(question)
    if is_about_library(question):
        raise QuestionError(f"{question!r} is about a library; give one folder of pictures")
    return None


def _refuse_options(question: str, arguments: argparse.Namespace) -> None:
    """A library is answered from its vectors. Raises `QuestionError` where something else shall."""
    from twotower.errors import QuestionError

    for name in ("vlm", "head", "answers"):
        if getattr(arguments, name):
            raise QuestionError(
                f"{question!r} is about a library, and --{name} for single pictures; leave it out, "
                "or give the pictures instead of their folder"
            )


def ask_pictures(places: list[str], questions: list[str], arguments: argparse.Namespace) -> int:
    """Every question about every picture; returns how many could not be answered."""
    from twotower.errors import QuestionError
    from twotower.inputs.pictures import find_pictures

    if not places:
        raise QuestionError(f"{questions[0]!r} is about single pictures; write them before it")
    pictures = find_pictures(places)
    answers = [one.strip() for one in arguments.answers.split(",")] if arguments.answers else []
    answered = _answers(pictures, questions, answers, arguments)
    print_answers = print_json if arguments.json else print_lines
    return print_answers(track(answered, "Asking", len(pictures) * len(questions)))


def _answers(
    pictures: list[Path], questions: list[str], answers: list[str], arguments: argparse.Namespace
) -> Iterator[Answered]:
    """By a server, a trained head, or the model itself."""
    from twotower.asking.ask import ask

    if arguments.vlm:
        from twotower.asking.vlm import Vlm

        return ask(
            pictures, questions, answers=answers, vlm=Vlm(arguments.vlm, arguments.vlm_model)
        )
    if arguments.head:
        from twotower.asking.head import Head
        from twotower.encode.load import find_model

        head = Head(arguments.head, find_model(arguments.model))
        return ask(pictures, questions, answers=answers, head=head, top=arguments.top)
    from twotower.encode.load import load

    model = load(arguments.model, engine=arguments.engine)
    return ask(pictures, questions, answers=answers, model=model, top=arguments.top)


def ask_library_of(
    places: list[str], questions: list[LibraryQuestion], arguments: argparse.Namespace
) -> None:
    """Questions about all pictures of a folder or library."""
    from twotower.asking.library_questions import ask_library
    from twotower.index.catalog import CATALOG_FILE

    folder = Path(places[0]) if places else None
    location = arguments.library
    if folder and (folder / CATALOG_FILE).exists():
        folder, location = None, folder
    library = open_library(folder, location)
    answers = [
        ask_library(library.opened, question, arguments.top, folder) for question in questions
    ]
    if arguments.json:
        print(to_json([_library_tree(answer) for answer in answers], indent=1))
        return
    for answer in answers:
        print_library_answer(answer)


def print_library_answer(answer: LibraryAnswer) -> None:
    """The answer, what is uncertain about it, and the pictures that show it."""
    asked = answer.question
    looked_for = f" {asked.looked_for!r}" if asked.looked_for else ""
    looked_for = f" without{looked_for}" if asked.negated else looked_for
    print(f"{asked.text}  [{asked.kind}{looked_for}]  {answer.answer or 'nothing matches'}")
    for note in answer.notes:
        print(f"  {note}")
    for hit in answer.hits:
        date = f"  {hit.taken.replace('T', ' ')}" if hit.taken else ""
        by_name = hit.probability is not None and hit.probability < answer.cutoff
        name = "  (by its name)" if by_name else ""
        print(f"  {percent(hit)}{printable(shown_path(hit.path))}{date}{name}")


def _library_tree(answer: LibraryAnswer) -> dict[str, Any]:
    asked = answer.question
    return {
        "question": asked.text,
        "kind": asked.kind,
        "query": asked.query,
        "negated": asked.negated,
        "answer": answer.answer,
        "cutoff": answer.cutoff,
        "matches": answer.matches,
        "total": answer.total,
        "expected": round(answer.expected, 2),
        "interval": [answer.low, answer.high],
        "notes": list(answer.notes),
        "hits": [hit_tree(hit) for hit in answer.hits],
    }


def split_words(words: list[str], stdin: Iterable[str]) -> tuple[list[str], list[str]]:
    """What of the command line are pictures and what are questions.

    A question has a space or a question mark in it and is no file; what follows the first question
    is a question too.

    Raises:
        QuestionError: there is no question.
    """
    from twotower.errors import QuestionError

    first = next((i for i, word in enumerate(words) if _is_question(word)), len(words))
    questions = []
    for word in words[first:]:
        questions += [line.strip() for line in stdin if line.strip()] if word == "-" else [word]
    if not questions:
        raise QuestionError(f'{words[-1]!r} is no question; ask, such as "is there a dog?"')
    return words[:first], questions


def _is_question(word: str) -> bool:
    if word == "-":
        return True
    try:
        if Path(word).exists():
            return False
    except OSError:  # longer than any file name
        return True
    return " " in word.strip() or word.endswith("?") or not word.strip()


def print_json(answers: Iterable[Answered]) -> int:
    """An object for each answer; returns how many failed."""
    return print_array(map(_tree, answers))


def _tree(answer: Answered) -> dict[str, Any]:
    return {
        "path": str(answer.source),
        "question": answer.question,
        "kind": answer.kind,
        "answer": answer.answer,
        "answers": [asdict(one) for one in answer.replies],
        "sure": answer.sure,
        "by": answer.by,
        "notes": list(answer.notes),
        "error": str(answer.error) if answer.error else None,
    }


def print_lines(answers: Iterable[Answered]) -> int:
    """A line for each picture and question, each error and note once; returns how many failed."""
    failed, said = 0, set()

    def say(text: str) -> None:
        if text not in said:
            print(f"twotower: {printable(text)}", file=sys.stderr)
            said.add(text)

    for answer in answers:
        if answer.error:
            failed += 1
            say(str(answer.error))
            continue
        replies = "  ".join(
            one.answer if one.probability is None else f"{one.answer} {one.probability:.0%}"
            for one in answer.replies
        )
        doubt = "" if answer.sure else "not sure: "
        kind = answer.kind
        if answer.by == "head" and kind != "trained":
            kind = f"{kind}, trained"
        picture = printable(str(answer.source))
        print(f"{picture}  {answer.question}  [{kind}]  {doubt}{replies}", flush=True)
        for note in answer.notes:
            say(f"{answer.question} {note}")
    return failed
