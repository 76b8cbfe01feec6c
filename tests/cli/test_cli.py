"""The command as a user runs it, in a separate process."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from twotower.asking.classify import Classified, Label
from twotower.cli.classify import print_lines

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "twotower", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Make a folder with good pictures and two that cannot be read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "c.png", "e.jpg"):
        PIL.Image.fromarray(random.integers(0, 256, (50, 60, 3), np.uint8)).save(folder / name)
    (folder / "b.jpg").write_bytes(b"nothing of the kind")
    (folder / "d.png").write_bytes((folder / "c.png").read_bytes()[:600])
    return folder


def test_json_has_an_object_for_each_picture_in_order(pictures: Path) -> None:
    missing = pictures / "missing.png"
    done = run("classify", missing, pictures, "--labels", "cat, dog", "--json", code=1)
    answers = json.loads(done.stdout)
    names = [Path(answer["path"]).name for answer in answers]
    assert names == ["missing.png", "a.png", "b.jpg", "c.png", "d.png", "e.jpg"]
    for answer, name in zip(answers, names, strict=True):
        assert set(answer) == {"path", "labels", "error"}
        if name in ("missing.png", "b.jpg", "d.png"):
            assert answer["labels"] == [] and name in answer["error"]
            assert "\n" not in answer["error"]
        else:
            assert answer["error"] is None
            assert {label["label"] for label in answer["labels"]} == {"cat", "dog"}
            assert sum(label["probability"] for label in answer["labels"]) == pytest.approx(1)
            assert all(-1 <= label["score"] <= 1 for label in answer["labels"])


def test_lines_answer_the_good_and_name_the_bad(pictures: Path) -> None:
    done = run("classify", pictures, "--labels", "cat, dog", code=1)
    assert len(done.stdout.splitlines()) == 3
    assert "b.jpg" in done.stderr and "d.png" in done.stderr


def test_labels_with_line_breaks_stay_on_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = Classified(Path("a.jpg"), [Label("a\nb\x1b[2J", 0.5, 0.1)], None)
    assert print_lines([answer]) == 0
    assert capsys.readouterr().out == "a.jpg  a\\nb\\x1b[2J 50%\n"


def test_label_files(pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeffcat\nhot dog, with mustard\n\n", encoding="utf-8")
    done = run("classify", pictures / "a.png", "--labels", labels, "--json")
    assert {label["label"] for label in json.loads(done.stdout)[0]["labels"]} == {
        "cat",
        "hot dog, with mustard",
    }


def test_a_long_list_of_labels_is_no_file_name(pictures: Path) -> None:
    labels = [f"label number {i}" for i in range(60)]
    done = run(
        "classify", pictures / "a.png", "--labels", ",".join(labels), "--json", "--top", "60"
    )
    assert len(json.loads(done.stdout)[0]["labels"]) == 60


def test_a_file_name_that_is_no_text(pictures: Path) -> None:
    name = os.fsencode(pictures) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes((pictures / "a.png").read_bytes())
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "twotower", "classify", name, "--labels", "cat"]
    lines = subprocess.run(command, capture_output=True, env=strict, check=True).stdout
    assert lines.startswith(name + b"  cat")
    as_json = subprocess.run([*command, "--json"], capture_output=True, env=strict, check=True)
    assert os.fsencode(json.loads(as_json.stdout.decode())[0]["path"]) == name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["classify", "PICTURE", "--labels", "no-such.txt"], 1, "no-such.txt: no such label file"),
        (["classify", "PICTURE", "--labels", "EMPTY"], 1, "an empty label file"),
        (["classify", "PICTURE", "--labels", "cat,,dog"], 1, "label 2: empty"),
        (["classify", "PICTURE", "--labels", ""], 1, "label 1: empty"),
        (["classify", "PICTURE", "--labels", "./"], 1, "./: a folder, not a label file"),
        (["classify", "--labels", "cat"], 2, "PICTURE"),
        (["classify", "PICTURE"], 2, "--labels"),
        (["classify", "FOLDER", "--labels", "cat"], 1, "empty-folder"),
        (["classify", "PICTURE", "--labels", "a", "--model", "twotower-smal"], 1, "did you mean"),
        (["classify", "PICTURE", "--labels", "a", "--templates", "no place"], 1, "needs one {}"),
        (["classify", "PICTURE", "--labels", "a", "--top", "0"], 2, "not 1 or more"),
        (["clasify"], 2, "invalid choice"),
        (["verify", "FOLDER"], 1, "empty-folder"),
    ],
)
def test_mistakes_get_one_line(
    arguments: list[str], code: int, message: str, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "empty-folder").mkdir()
    paths = {
        "PICTURE": pictures / "a.png",
        "EMPTY": tmp_path / "empty.txt",
        "FOLDER": tmp_path / "empty-folder",
    }
    done = run(*[paths.get(argument, argument) for argument in arguments], code=code)
    assert message in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


def test_json_of_nothing_readable_is_still_json(tmp_path: Path) -> None:
    done = run("classify", tmp_path / "no.jpg", "--labels", "cat", "--json", code=1)
    assert json.loads(done.stdout)[0]["labels"] == []


def test_a_closed_pipe_is_no_error(pictures: Path) -> None:
    command = f"{sys.executable} -m twotower classify {pictures} --labels cat | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_verify_and_convert(tiny_directory: Path, tmp_path: Path) -> None:
    assert "golden vectors reproduced" in run("verify").stdout
    assert "golden vectors reproduced" in run("verify", tiny_directory, "--engine", "torch").stdout
    done = run("convert", tiny_directory, tmp_path / "hf", "--to", "transformers")
    assert "verified the result" in done.stdout
    assert (tmp_path / "hf" / "preprocessor_config.json").exists()
    assert "already exists" in run("convert", tiny_directory, tmp_path / "hf", code=1).stderr


def test_ctrl_c_leaves_valid_json(pictures: Path) -> None:
    """Ctrl-C after the first block of output leaves every finished answer in valid JSON."""
    many = [str(pictures / "a.png")] * 2000
    classify = [sys.executable, "-m", "twotower", "classify", "--model", "small"]
    command = [*classify, *many, "--labels", "cat", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        start = process.stdout.read(4096)
        process.send_signal(signal.SIGINT)
        answers = json.loads(start + process.stdout.read())
        message = process.stderr.read().decode()
    assert process.returncode == 130
    assert 0 < len(answers) < len(many)
    assert message == "stopped\n"


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_directory: Path, tmp_path: Path) -> None:
    def small_files_only() -> None:  # the weights do not fit, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-m", "twotower", "convert", tiny_directory, tmp_path / "new" / "model"],
        capture_output=True,
        text=True,
        preexec_fn=small_files_only,
    )
    assert done.returncode == 1
    assert "model: cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "new").iterdir()) == []


def test_two_at_once_share_one_conversion(tiny_directory: Path, tmp_path: Path) -> None:
    run("convert", tiny_directory, tmp_path / "hf", "--to", "transformers")
    command = [sys.executable, "-m", "twotower", "verify", tmp_path / "hf"]
    cache = {"TWOTOWER_CACHE": str(tmp_path / "cache")}
    processes = [subprocess.Popen(command, env=os.environ | cache) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def encoded(encoding: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose output has an encoding, as when Windows redirects it to a file."""
    done = subprocess.run(
        [sys.executable, "-m", "twotower", *map(str, arguments), "--model", "small"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )
    assert done.returncode == 0, done.stderr.decode(encoding)
    return done


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "shift_jis"])
def test_output_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    """Characters that an encoding lacks are escaped; JSON is the same in all of them."""
    names = ("東京 café 🎈.jpg", "cat.jpg")
    for name in names:
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    paths = [tmp_path / name for name in names]
    labels = ("--labels", "кот, é, 🐈")
    trees = json.loads(encoded(encoding, "classify", *paths, *labels, "--json").stdout)
    assert [tree["path"] for tree in trees] == [str(path) for path in paths]
    assert {label["label"] for label in trees[0]["labels"]} == {"кот", "é", "🐈"}
    line = encoded(encoding, "classify", paths[0], *labels).stdout.decode(encoding)
    shown = str(paths[0]).encode(encoding, "backslashreplace").decode(encoding)
    assert line.startswith(shown)


def test_results_of_evaluations_in_other_encodings(tmp_path: Path) -> None:
    for name in ("東京", "é"):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    done = encoded("cp1252", "evaluate", "zero-shot", tmp_path, "--json")
    assert "東京" in json.dumps(json.loads(done.stdout), ensure_ascii=False)


WITHOUT_EXTRAS = """
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "onnxscript", "matplotlib", "scipy")))
from twotower.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "command",
    [
        "train emoji --run {0}/run",
        "train folder {0}/pairs --run {0}/run",
        "train pretrain {0}/pairs --run {0}/run",
        "train distill {0}/pairs --run {0}/run --teacher small",
        "train vqa {0}/questions.csv {0}/head",
        "train plot {0}",
        "convert small {0}/model",
        "verify small --engine torch",
    ],
)
def test_commands_name_the_extra_that_they_need(command: str, tmp_path: Path) -> None:
    arguments = command.format(tmp_path).split()
    (tmp_path / "pairs" / "cat").mkdir(parents=True)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "pairs" / "cat" / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "needs the package 'torch'; pip install 'twotower[train]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs"]
