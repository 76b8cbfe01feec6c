"""The clients of other software, in processes of their own, against our server."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")

import twotower
from tests.serve.sample_pictures import CAT, PHOTOS

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

DOG = (PHOTOS / "dog.jpg").read_bytes()
TEXTS = ["a cat", "ein Hund, 犬"]


def install(folder: Path, *requirements: str) -> Path:
    """Install packages into a folder of their own."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    result = subprocess.run([*command, *requirements], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def run_python(script: str, packages: Path, *arguments: str | Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def require_same(embeds: np.ndarray, expected: np.ndarray) -> None:
    assert embeds.shape == expected.shape
    assert (embeds * expected).sum(axis=1).min() > 0.9999


TRITON = """
import sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

url, pixels, output = sys.argv[1:4]
pictures = [open(path, "rb").read() for path in sys.argv[4:]]
client = triton.InferenceServerClient(url.removeprefix("http://"))
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("small")
assert client.is_model_ready("small", "1") and not client.is_model_ready("other")
assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
metadata = client.get_model_metadata("small", "1")
assert [tensor["name"] for tensor in metadata["inputs"]] == ["text", "image", "pixel_values"]
assert client.get_model_config("small")["max_batch_size"] > 0
assert client.get_model_repository_index()[0]["state"] == "READY"

def tensor(name, values, binary=True):
    datatype = "FP32" if values.dtype == np.float32 else "BYTES"
    data = triton.InferInput(name, list(values.shape), datatype)
    data.set_data_from_numpy(values, binary_data=binary)
    return data

def infer(inputs, *names, binary=None, **options):
    outputs = None
    if binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("small", inputs, outputs=outputs, request_id="7", **options)
    assert result.get_response()["id"] == "7"
    return [result.as_numpy(name) for name in names]

texts = np.array([["a cat"], ["ein Hund, \\u72ac"]], dtype=object)
files = np.array(pictures, dtype=object)
results = {}
for binary_input in (True, False):
    for binary_output in (None, True, False):
        [results[f"text {binary_input} {binary_output}"]] = infer(
            [tensor("text", texts, binary_input)], "text_embeds", binary=binary_output)
pixel_values = np.load(pixels)
[results["image pixels"]] = infer([tensor("pixel_values", pixel_values)], "image_embeds")
[results["image pixels in JSON"]] = infer(
    [tensor("pixel_values", pixel_values, False)], "image_embeds", binary=False)
[results["image files"]] = infer([tensor("image", files)], "image_embeds", binary=False)
results["text both"], results["image both"] = infer(
    [tensor("image", files), tensor("text", texts)], "text_embeds", "image_embeds")
for algorithm in ("gzip", "deflate"):
    [results[f"text {algorithm}"]] = infer(
        [tensor("text", texts)], "text_embeds", model_version="1",
        request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
[results["text async"]] = [client.async_infer(
    "small", [tensor("text", texts)]).get_result().as_numpy("text_embeds")]

wrong = np.array([b"no picture"], dtype=object)
for name, values, part in (
    ("image", wrong, "image[0]"), ("other", wrong, "other"), ("text", files, "UTF-8")):
    try:
        infer([tensor(name, values)], "image_embeds")
    except InferenceServerException as error:
        assert part in error.message() and error.status() in ("400", "422"), error
    else:
        raise AssertionError(name)
np.savez(output, **results)
"""


def test_tritonclient(models_url: str, tmp_path: Path) -> None:
    packages = install(tmp_path / "packages", "tritonclient[http]==2.73.0")
    model = twotower.load("small")
    pixels, output = tmp_path / "pixels.npy", tmp_path / "embeds.npz"
    np.save(pixels, np.stack([model.preprocess(CAT), model.preprocess(DOG)]))
    photos = [PHOTOS / "cat.jpg", PHOTOS / "dog.jpg"]
    run_python(TRITON, packages, models_url, pixels, output, *photos)
    expected = {"text": model.encode_text(TEXTS), "image": model.encode_image([CAT, DOG])}
    results = np.load(output)
    assert len(results.files) == 14
    for name in results.files:
        require_same(results[name], expected[name.split()[0]])


CLIP_CLIENT = """
import importlib.util
import json
import sys

url, packages, picture = sys.argv[1:]
path = f"{packages}/clip_retrieval/clip_client.py"
spec = importlib.util.spec_from_file_location("clip_client", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
client = module.ClipClient(f"{url}/knn-service", "photos", num_images=5)
other = module.ClipClient(f"{url}/knn-service", "laion5B")
print(json.dumps({
    "text": client.query(text="a photo of a dog"),
    "image": client.query(image=picture),
    "embedding": client.query(embedding_input=[1.0] * 512),
    "error": other.query(text="a dog"),
}))
"""


def test_clip_client(eight_photos_url: str, tmp_path: Path) -> None:
    packages = install(tmp_path / "packages", "requests")
    install(packages, "--no-deps", "clip-retrieval==2.45.0")
    output = run_python(CLIP_CLIENT, packages, eight_photos_url, packages, PHOTOS / "cat.jpg")
    answers = json.loads(output)
    assert "dog" in answers["text"][0]["image_path"]
    assert len(answers["text"]) == 3  # of five, as two are duplicates
    assert "cat" in answers["image"][0]["image_path"]
    assert answers["image"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert sum("cat" in row["image_path"] for row in answers["image"]) == 1  # it deduplicates
    assert answers["embedding"][0].keys() >= {"id", "similarity", "url", "caption"}
    assert "photos" in answers["error"]["message"]


NODE = """
const { readFile } = require('node:fs/promises');
const [url, picture] = process.argv.slice(1);

async function predict(payload, entries) {
  // the requests of Immich's server: a form with the entries, and a file or a text
  const form = new FormData();
  form.append('entries', JSON.stringify(entries));
  if (payload.path) form.append('image', new Blob([new Uint8Array(await readFile(payload.path))]));
  else form.append('text', payload.text);
  const response = await fetch(new URL('/predict', url), { method: 'POST', body: form });
  if (!response.ok) return { status: response.status, ...(await response.json()) };
  return response.json();
}

(async () => {
  const ping = await fetch(new URL('/ping', url));
  const modelName = 'ViT-B-32__openai';
  console.log(JSON.stringify({
    ping: ping.ok,
    image: await predict({ path: picture }, { clip: { visual: { modelName } } }),
    text: await predict(
      { text: 'ein Hund, 犬' },
      { clip: { textual: { modelName, options: { language: 'de' } } } }),
    faces: await predict({ path: picture }, { 'facial-recognition': {
      detection: { modelName: 'buffalo_l', options: { minScore: 0.7 } },
      recognition: { modelName: 'buffalo_l' } } }),
  }));
})();
"""


@pytest.fixture
def node() -> Callable[..., str]:
    path = shutil.which("node")
    if path is None and not os.environ.get("CI"):
        pytest.skip("node is not installed")
    assert path is not None, "node is not installed"

    def run(script: str, *arguments: str | Path) -> str:
        command = [path, "-e", script, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_immich_form_of_node(models_url: str, node: Callable[..., str]) -> None:
    answers = json.loads(node(NODE, models_url, PHOTOS / "cat.jpg"))
    assert answers["ping"] is True
    model = twotower.load("small")
    image = answers["image"]
    require_same(np.array([json.loads(image["clip"])]), model.encode_image([CAT]))
    assert (image["imageHeight"], image["imageWidth"]) == (640, 640)
    text = json.loads(answers["text"]["clip"])
    require_same(np.array([text]), model.encode_text(["ein Hund, 犬"]))
    assert answers["faces"]["status"] == 400 and "clip" in answers["faces"]["detail"]


def test_weaviate_body_of_go(models_url: str) -> None:
    """Go writes the fields without blanks, escapes "<", and sends no content type."""
    requests = pytest.importorskip("requests")
    images = [base64.b64encode(content).decode() for content in (CAT, DOG)]
    texts = r'"a cat","ein Hund, 犬","\u003cb\u003e"'
    body = f'{{"texts":[{texts}],"images":["{images[0]}","{images[1]}"]}}'
    headers = {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"}
    answer = requests.post(f"{models_url}/vectorize", body.encode(), headers=headers, timeout=60)
    assert answer.status_code == 200
    model = twotower.load("small")
    require_same(np.array(answer.json()["textVectors"]), model.encode_text([*TEXTS, "<b>"]))
    require_same(np.array(answer.json()["imageVectors"]), model.encode_image([CAT, DOG]))
    for absent in ("", '"texts":null,'):
        body = f'{{{absent}"images":["{images[0]}"]}}'
        answer = requests.post(f"{models_url}/vectorize", body, timeout=60)
        assert len(answer.json()["imageVectors"]) == 1 and answer.json()["textVectors"] == []
    answer = requests.post(f"{models_url}/vectorize", '{"images":["AAAA"]}', timeout=60)
    assert answer.status_code > 399 and isinstance(answer.json()["error"], str)
    ready = requests.get(f"{models_url}/.well-known/ready", timeout=5)
    assert ready.status_code == 204
