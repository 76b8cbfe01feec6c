"""`twotower ask`: answer questions about pictures, and about a library of them."""

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
    from twotower.asking.library_answers import LibraryAnswer
    from twotower.asking.library_questions import LibraryQuestion
    from twotower.cli.output import Commands


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("ask", help="answer questions about pictures")
    command.set_defaults(run=run_ask)
    command.add_argument(
        "words",
        nargs="+",
        metavar="PICTURE ... QUESTION ...",
        help="pictures or a folder (or the library you are in), then questions; - reads questions "
        "from stdin, one on each line",
    )
    add_library_option(command)
    command.add_argument("--answers", help='the answers to choose from ("red, blue")')
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
    from twotower.asking.library_questions import library_question
    from twotower.errors import QuestionError

    sources, questions = split_words(arguments.words, sys.stdin)
    has_library = not sources or (len(sources) == 1 and Path(sources[0]).is_dir())
    parsed = [(question, library_question(question, has_library)) for question in questions]
    about_library = [question for _, question in parsed if question]
    about_pictures = [text for text, question in parsed if not question]
    if about_library:
        check_options(about_library[0].text, arguments)
    if about_library and about_pictures and arguments.json:
        raise QuestionError(
            repr(about_library[0].text),
            f"is about a library, and {about_pictures[0]!r} about single pictures",
            "run twotower ask --json once for each kind",
        )
    if about_library:
        ask_library(sources, about_library, arguments)
    failed = ask_pictures(sources, about_pictures, arguments) if about_pictures else 0
    return FAILED if failed else OK


def split_words(words: list[str], stdin: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the words of the command line into pictures and questions.

    A question contains a space or a question mark and is no file. All words after the first
    question are questions too.

    Raises:
        QuestionError: there is no question.
    """
    from twotower.errors import QuestionError

    start = next((i for i, word in enumerate(words) if _is_question(word)), len(words))
    questions = []
    for word in words[start:]:
        questions += [line.strip() for line in stdin if line.strip()] if word == "-" else [word]
    if not questions:
        raise QuestionError(repr(words[-1]), "not a question", 'ask, such as "is there a dog?"')
    return words[:start], questions


def _is_question(word: str) -> bool:
    if word == "-":
        return True
    try:
        if Path(word).exists():
            return False
    except OSError:  # longer than any file name
        return True
    return " " in word.strip() or word.endswith("?") or not word.strip()


def check_options(question: str, arguments: argparse.Namespace) -> None:
    """Raise `QuestionError` for options that apply to single pictures only."""
    from twotower.errors import QuestionError

    for name in ("vlm", "head", "answers"):
        if getattr(arguments, name):
            raise QuestionError(
                repr(question),
                f"is about a library, and --{name} for single pictures",
                "leave it out, or give the pictures instead of their folder",
            )


# --- single pictures -----------------------------------------------------------------------------


def ask_pictures(sources: list[str], questions: list[str], arguments: argparse.Namespace) -> int:
    """Answer every question about every picture; returns how many have no answer."""
    from twotower.errors import QuestionError
    from twotower.inputs.pictures import find_pictures

    if not sources:
        raise QuestionError(
            repr(questions[0]), "is about single pictures", "write them before the question"
        )
    pictures = find_pictures(sources)
    answered = answer(pictures, questions, arguments)
    print_answers = print_json if arguments.json else print_lines
    return print_answers(track(answered, "Answering", len(pictures) * len(questions)))


def answer(
    pictures: list[Path], questions: list[str], arguments: argparse.Namespace
) -> Iterator[Answered]:
    """Answer by a server, a trained head, or the model itself."""
    from twotower.asking.ask import ask
    from twotower.encode.load import find_model, load

    words = arguments.answers.split(",") if arguments.answers else []
    answers = [word.strip() for word in words]
    if arguments.vlm:
        from twotower.asking.vlm import Vlm

        vlm = Vlm(arguments.vlm, arguments.vlm_model)
        return ask(pictures, questions, answers=answers, vlm=vlm)
    if arguments.head:
        from twotower.asking.head import Head

        head = Head(arguments.head, find_model(arguments.model))
        return ask(pictures, questions, answers=answers, head=head, top=arguments.top)
    model = load(arguments.model, engine=arguments.engine)
    return ask(pictures, questions, answers=answers, model=model, top=arguments.top)


def print_json(answers: Iterable[Answered]) -> int:
    """Print an object for each answer; returns how many have an error."""
    return print_array(map(_answer_tree, answers))


def _answer_tree(answer: Answered) -> dict[str, Any]:
    return {
        "path": str(answer.source),
        "question": answer.question,
        "kind": answer.kind,
        "answer": answer.answer,
        "answers": [asdict(reply) for reply in answer.replies],
        "sure": answer.sure,
        "by": answer.by,
        "notes": list(answer.notes),
        "error": str(answer.error) if answer.error else None,
    }


def print_lines(answers: Iterable[Answered]) -> int:
    """Print a line for each answer, and each error and note once; returns the number of errors."""
    failed = 0
    printed: set[str] = set()

    def print_once(text: str) -> None:
        if text not in printed:
            print(f"twotower: {printable(text)}", file=sys.stderr)
            printed.add(text)

    for answer in answers:
        if answer.error:
            failed += 1
            print_once(str(answer.error))
            continue
        print(_answer_line(answer), flush=True)
        for note in answer.notes:
            print_once(f"{answer.question} {note}")
    return failed


def _answer_line(answer: Answered) -> str:
    replies = "  ".join(
        reply.answer if reply.probability is None else f"{reply.answer} {reply.probability:.0%}"
        for reply in answer.replies
    )
    doubt = "" if answer.sure else "not sure: "
    kind = answer.kind
    if answer.by == "head" and kind != "trained":
        kind = f"{kind}, trained"
    return f"{printable(str(answer.source))}  {answer.question}  [{kind}]  {doubt}{replies}"


# --- a library -----------------------------------------------------------------------------------


def ask_library(
    sources: list[str], questions: list[LibraryQuestion], arguments: argparse.Namespace
) -> None:
    """Answer questions about all pictures of a folder or library."""
    from twotower.index.catalog import CATALOG_FILE

    folder = Path(sources[0]) if sources else None
    location = arguments.library
    if folder and (folder / CATALOG_FILE).exists():
        folder, location = None, folder
    library = open_library(folder, location)
    answers = [library.ask(question, top=arguments.top, folder=folder) for question in questions]
    if arguments.json:
        print(to_json([_library_tree(answer) for answer in answers], indent=1))
        return
    for answer in answers:
        print_library_answer(answer)


def print_library_answer(answer: LibraryAnswer) -> None:
    """Print the answer, its uncertainty, and the pictures that show it."""
    question = answer.question
    thing = f" {question.thing!r}" if question.thing else ""
    thing = f" without{thing}" if question.negated else thing
    print(f"{question.text}  [{question.kind}{thing}]  {answer.answer or 'nothing matches'}")
    for note in answer.notes:
        print(f"  {note}")
    for hit in answer.hits:
        date = f"  {hit.taken.replace('T', ' ')}" if hit.taken else ""
        by_name = hit.probability is not None and hit.probability < answer.cutoff
        share = " " * len(percent(hit)) if by_name else percent(hit)
        name = "  (by its name)" if by_name else ""
        print(f"  {share}{printable(shown_path(hit.path))}{date}{name}")


def _library_tree(answer: LibraryAnswer) -> dict[str, Any]:
    question = answer.question
    return {
        "question": question.text,
        "kind": question.kind,
        "query": question.query,
        "negated": question.negated,
        "answer": answer.answer,
        "cutoff": answer.cutoff,
        "matches": answer.matches,
        "total": answer.total,
        "expected": round(answer.expected, 2),
        "interval": [answer.low, answer.high],
        "notes": list(answer.notes),
        "hits": [hit_tree(hit) for hit in answer.hits],
    }
