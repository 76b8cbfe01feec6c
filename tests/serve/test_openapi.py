"""The OpenAPI description: valid, and true for what schemathesis sends."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.test_app import call
from twotower.serve.app import ENDPOINTS


def test_every_endpoint_is_described(models_url: str) -> None:
    status, description, _ = call(f"{models_url}/openapi.json")
    assert status == 200
    operations = {
        (path, method.upper()) for path, item in description["paths"].items() for method in item
    }
    assert len(operations) == sum(len(endpoint.methods) for endpoint in ENDPOINTS)
    for path, item in description["paths"].items():
        for operation in item.values():
            assert operation["summary"], path


@pytest.mark.clients
@pytest.mark.timeout(1200)
def test_schemathesis_finds_nothing(library_url: str, tmp_path: Path) -> None:
    # Whether data of the right schema is accepted is not checked: no schema can say that a string
    # is a picture, or which models are served.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", "schemathesis>=4.32"], check=True)
    command = [tmp_path / "venv/bin/st", "run", f"{library_url}/openapi.json"]
    options = [
        "--seed",
        "1",
        "--max-examples",
        "15",
        "--exclude-checks",
        "positive_data_acceptance",
    ]
    result = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=tmp_path, timeout=1100
    )
    assert result.returncode == 0, result.stdout[-6000:]
    assert call(f"{library_url}/healthz")[0] == 200
