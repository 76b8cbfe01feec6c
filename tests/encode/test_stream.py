"""Results belong to their pictures, even if others fail."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.encode.encoder import Encoder
from twotower.encode.stream import StageTimes, encode_ahead, encode_stream, read_ahead
from twotower.errors import PictureError


def preprocess(source: str) -> np.ndarray:
    """Turn "7" into an array of sevens after a short time; fail for anything else."""
    if not source.isdigit():
        raise PictureError(source, "broken", "mend it")
    time.sleep(int(source) % 3 / 2000)  # finish out of order
    return np.full((3, 2, 2), float(source), np.float32)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 999).map(str) | st.sampled_from(["bad", "worse"]), max_size=40),
    st.integers(1, 9),
)
def test_every_answer_belongs_to_its_picture(sources: list[str], batch_size: int) -> None:
    sizes = []

    def encode(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch[:, 0, 0, :1]

    answers = list(encode_stream(sources, preprocess, encode, batch_size))
    assert [answer.source for answer in answers] == sources
    for answer in answers:
        if answer.source.isdigit():
            assert answer.error is None and answer.image_embeds == float(answer.source)
        else:
            assert answer.image_embeds is None and answer.error.subject == answer.source
    assert max(sizes, default=1) <= batch_size
    assert sum(sizes) == sum(source.isdigit() for source in sources)


def test_reading_ahead_is_bounded() -> None:
    started = []
    results = read_ahead(lambda item: started.append(item) or item, iter(range(1000)), ahead=5)
    for expected in range(10):
        item, outcome = next(results)
        assert item == outcome == expected
        assert len(started) <= expected + 5
    results.close()


def test_threads_end_when_the_reader_stops() -> None:
    results = read_ahead(lambda item: time.sleep(0.01), iter(range(10_000)), ahead=50)
    next(results)
    results.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("twotower-decode")
    ]


def test_other_errors_are_not_hidden() -> None:
    def fail(item: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(read_ahead(fail, [1], ahead=1))


def test_real_files_among_broken_ones(tiny_directory: Path, tmp_path: Path) -> None:
    import PIL.Image

    random = np.random.default_rng(1)
    paths = []
    for i in range(11):
        path = tmp_path / f"{i}.png"
        if i % 3 == 1:
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(i))
        else:
            PIL.Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
        paths.append(path)
    encoder = Encoder(tiny_directory)
    answers = list(encoder.stream([*paths, tmp_path / "missing.png"], batch_size=3))
    for i, (path, answer) in enumerate(zip(paths, answers, strict=False)):
        assert answer.source == path
        if i % 3 == 1:
            assert path.name in str(answer.error)
        else:
            np.testing.assert_allclose(
                answer.image_embeds, encoder.encode_image(path)[0], atol=1e-5
            )
    assert "missing.png" in str(answers[-1].error)


def run_stages(decode_seconds: float, encode_seconds: float) -> StageTimes:
    times = StageTimes(2)

    def decode(item: int) -> np.ndarray:
        time.sleep(decode_seconds)
        return np.zeros((3, 2, 2), np.float32)

    def encode(batch: np.ndarray) -> np.ndarray:
        time.sleep(encode_seconds)
        return batch[:, 0, 0, :1]

    assert len(list(encode_ahead(range(24), decode, encode, 4, times))) == 24
    return times


def test_the_limiting_stage_is_named() -> None:
    assert StageTimes().limit == ""
    assert run_stages(0.02, 0.0).limit == "decode-bound, 2 cores"
    assert run_stages(0.0, 0.04).limit == "encode-bound"


def test_stages_wait_for_each_other_and_not_for_the_input() -> None:
    """Only the waits between the stages count, which end where the other stage is quick."""
    slow_encoder = run_stages(0.0, 0.04)
    assert slow_encoder.decoders_wait > 0.1 > slow_encoder.encoder_waits


def test_reading_is_told_from_decoding() -> None:
    times = StageTimes()
    times.encoder_waits = 1.0
    times.add_work(reading=0.5, decoding=0.4)
    assert times.limit == "read-bound"
    times.add_work(reading=0.0, decoding=0.2)
    assert times.limit.startswith("decode-bound")


def test_one_core_is_singular() -> None:
    times = StageTimes(1)
    times.encoder_waits = 1.0
    assert times.limit == "decode-bound, 1 core"
