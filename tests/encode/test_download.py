"""Downloads from a hub on this machine."""

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from tests.encode.fake_hub import FakeHub, running_hub
from twotower.encode.download import download, is_downloaded, read_record
from twotower.encode.hub_files import needed_files
from twotower.encode.registry import NamedModel
from twotower.errors import ModelError

SETTINGS = {"config.json": b"{}", "preprocessor_config.json": b"[]", "vocab.json": b"1"}
WEIGHTS = {"model.safetensors": b"the weights" * 1000}
COPIES = {
    "pytorch_model.bin": b"copy",
    "tf_model.h5": b"copy",
    "flax_model.msgpack": b"copy",
    "onnx/model.onnx": b"copy",
    "README.md": b"text",
    "figure.png": b"picture",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with running_hub() as hub:
        use_endpoint(monkeypatch, hub.url)
        hub.add("org/clip", SETTINGS | WEIGHTS | COPIES)
        yield hub


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Set what huggingface_hub reads from HF_ENDPOINT when it is imported."""
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process that uses this hub."""
    return os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "TWOTOWER_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ([*SETTINGS, *WEIGHTS, *COPIES], [*SETTINGS, *WEIGHTS]),
        (["config.json", "pytorch_model.bin"], ["config.json", "pytorch_model.bin"]),
        (
            "config.json model.safetensors open_clip_config.json open_clip_model.safetensors "
            "open_clip_pytorch_model.bin tokenizer.json".split(),
            "config.json open_clip_config.json open_clip_model.safetensors tokenizer.json".split(),
        ),
        (
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model.safetensors.index.json pytorch_model-00001-of-00001.bin "
            "pytorch_model.bin.index.json".split(),
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors "
            "model.safetensors.index.json".split(),
        ),
        (
            "config.json onnx/vision_model.onnx onnx/vision_model_fp16.onnx onnx/text_model.onnx "
            "onnx/text_model_q4.onnx onnx/vision_model.onnx_data".split(),
            "config.json onnx/text_model.onnx onnx/vision_model.onnx "
            "onnx/vision_model.onnx_data".split(),
        ),
        (
            "modules.json 0_CLIPModel/config.json 0_CLIPModel/pytorch_model.bin "
            "0_CLIPModel/model.safetensors".split(),
            "0_CLIPModel/config.json 0_CLIPModel/model.safetensors modules.json".split(),
        ),
        (
            "config.json visual/model.onnx visual/preprocess_cfg.json textual/model.onnx "
            "textual/tokenizer.json rknn/visual.rknn".split(),
            "config.json textual/model.onnx textual/tokenizer.json visual/model.onnx "
            "visual/preprocess_cfg.json".split(),
        ),
        (
            "config.json golden.safetensors model.safetensors vision.onnx text.onnx README.md "
            "head/head.onnx".split(),
            "config.json golden.safetensors head/head.onnx model.safetensors text.onnx "
            "vision.onnx".split(),
        ),
        (["README.md"], []),
    ],
)
def test_one_copy_of_the_weights_is_needed(names: list[str], needed: list[str]) -> None:
    assert needed_files(names) == sorted(needed)


def test_only_needed_files_are_fetched_and_once(hub: FakeHub) -> None:
    folder = download("org/clip")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*SETTINGS, *WEIGHTS])
    assert hub.fetched() == sorted([*SETTINGS, *WEIGHTS])
    assert download("org/clip") == folder
    assert hub.fetched() == sorted([*SETTINGS, *WEIGHTS])
    assert is_downloaded("org/clip") and not is_downloaded("org/other")
    digest = hashlib.sha256(WEIGHTS["model.safetensors"]).hexdigest()
    assert read_record("org/clip").files["c" * 40]["model.safetensors"][0] == digest


def test_a_kept_revision_needs_no_hub(hub: FakeHub) -> None:
    kept = download("org/clip", keep_revision=True)
    hub.add("org/clip", SETTINGS | {"model.safetensors": b"newer"}, commit="d" * 40)
    hub.requests.clear()
    assert download("org/clip", keep_revision=True) == kept
    assert not hub.requests
    assert download("org/clip") != kept  # the main branch
    with pytest.raises(ModelError, match="no such revision"):
        download("org/clip", "e" * 40)


def test_without_a_network_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = download("org/clip")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    use_endpoint(monkeypatch, nowhere)
    assert download("org/clip") == folder
    with pytest.raises(ModelError, match=r"hf-hub:org/else: .*; check the name and the network"):
        download("org/else")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert download("org/clip") == folder


def test_a_wrong_checksum_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    true = hub.files["org/clip"]["model.safetensors"]
    hub.lies["model.safetensors"] = b"x" * len(true)
    with pytest.raises(ModelError, match=r"model\.safetensors has the SHA-256 .* removed"):
        download("org/clip")
    assert not is_downloaded("org/clip")
    assert not any(path.read_bytes()[:1] == b"x" for path in blobs(tmp_path))
    hub.lies.clear()
    assert (download("org/clip") / "model.safetensors").read_bytes() == true


def test_a_wrong_checksum_of_the_registry(hub: FakeHub) -> None:
    with pytest.raises(ModelError, match=r"not 000000000000"):
        download("org/clip", sha256={"model.safetensors": "0" * 64})


def test_a_file_that_changed_in_the_cache(hub: FakeHub) -> None:
    weights = download("org/clip", keep_revision=True) / "model.safetensors"
    weights.resolve().write_bytes(b"damaged")
    with pytest.raises(ModelError, match="has the SHA-256"):
        download("org/clip", keep_revision=True)
    assert not weights.exists()
    assert (download("org/clip", keep_revision=True) / weights.name).stat().st_size == 11_000


def test_settings_that_change_under_the_same_commit(hub: FakeHub, tmp_path: Path) -> None:
    """Also files without a SHA-256 on the hub are recorded at the first download."""
    download("org/clip")
    shutil.rmtree(tmp_path / "hub")
    hub.files["org/clip"]["config.json"] = b'{"hidden_act": "gelu"}'
    with pytest.raises(ModelError, match=r"config\.json has the SHA-256"):
        download("org/clip")


def test_refusals_of_the_hub(hub: FakeHub) -> None:
    hub.gated.add("org/clip")
    with pytest.raises(ModelError, match=r"gated.*accept its terms at .*org/clip"):
        download("org/clip")
    with pytest.raises(ModelError, match="no such repository, or it is private"):
        download("org/missing")
    hub.add("org/text", {"README.md": b"text"})
    with pytest.raises(ModelError, match="holds no model"):
        download("org/text")
    with pytest.raises(ModelError, match="hf-hub:a b: "):
        download("a b")


def test_a_full_disk(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ModelError, match=r"disk is full: 0 MB are needed .*HF_HUB_CACHE"):
        download("org/clip")
    assert not hub.fetched()
    monkeypatch.undo()
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    use_endpoint(monkeypatch, hub.url)

    def fail(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match="No space left on device; make room"):
        download("org/clip")
    assert not is_downloaded("org/clip")


def test_a_damaged_record_is_no_obstacle(hub: FakeHub, tmp_path: Path) -> None:
    download("org/clip")
    (record,) = (tmp_path / "cache" / "hub").iterdir()
    for text in (
        "",
        "[]",
        '{"first_commit": 1}',
        '{"first_commit": null, "commits": {}, "files": {"c": 1}}',
    ):
        record.write_text(text)
        assert download("org/clip").is_dir()


def test_two_processes_download_at_once(hub: FakeHub, tmp_path: Path) -> None:
    code = "from twotower.encode.download import download; print(download('org/clip'))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(hub, tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    weights = Path(outputs[0][0].strip()) / "model.safetensors"
    assert weights.read_bytes() == WEIGHTS["model.safetensors"]


def test_a_named_model_works_in_a_command(
    hub: FakeHub, tiny_directory: Path, tmp_path: Path
) -> None:
    """`--model NAME` downloads, converts and verifies; the second time without the hub."""
    import twotower
    from twotower.encode.registry import read_registry

    twotower.convert(tiny_directory, tmp_path / "clip", "transformers")
    model = next(model for model in read_registry().models if model.name == "siglip2-base")
    assert isinstance(model, NamedModel)
    hub.add(model.hub, {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()})
    for requests in (True, False):
        hub.requests.clear()
        done = subprocess.run(
            [sys.executable, "-m", "twotower", "verify", model.name],
            env=environment(hub, tmp_path),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "golden vectors reproduced" in done.stdout
        assert bool(hub.requests) == requests
    hub.gated.add("org/clip")
    done = subprocess.run(
        [sys.executable, "-m", "twotower", "verify", "hf-hub:org/clip"],
        env=environment(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("twotower: hf-hub:org/clip: gated")


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
