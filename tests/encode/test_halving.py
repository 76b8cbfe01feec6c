"""Batches that do not fit into the memory are computed in halves, with the same result."""

import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.encode.engine import HalvingEngine, is_out_of_memory
from twotower.errors import EngineError


class SmallEngine:
    """An engine with memory for some rows.

    Attributes:
        sizes: of the batches that it computed.
    """

    def __init__(self, max_rows: int, error: Exception) -> None:
        self.max_rows, self.error = max_rows, error
        self.sizes: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) > self.max_rows:
            raise self.error
        self.sizes.append(len(batch))
        return batch * 2


@given(st.integers(1, 9), st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_every_row_is_computed_once(max_rows: int, sizes: list[int]) -> None:
    small = SmallEngine(max_rows, MemoryError())
    engine = HalvingEngine(small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in sizes:
            batch = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
            np.testing.assert_array_equal(engine(batch), batch * 2)
    assert sum(small.sizes) == sum(sizes)


def test_the_size_is_kept_and_said() -> None:
    small = SmallEngine(10, RuntimeError("onnxruntime: std::bad_alloc"))
    engine = HalvingEngine(small)
    with pytest.warns(UserWarning) as shown:
        engine(np.zeros((32, 1), np.float32))
    assert [str(warning.message) for warning in shown] == [
        "the memory is too small for a batch of 32; 16 are computed at once",
        "the memory is too small for a batch of 16; 8 are computed at once",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine(np.zeros((20, 1), np.float32))
    assert small.sizes == [8, 8, 8, 8, 8, 8, 4]


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    engine = HalvingEngine(SmallEngine(0, MemoryError()))
    with (
        pytest.warns(UserWarning),
        pytest.raises(EngineError, match="a batch of 1: does not fit into the memory"),
    ):
        engine(np.zeros((2, 1), np.float32))


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="wrong shape"):
        HalvingEngine(SmallEngine(0, RuntimeError("wrong shape")))(np.zeros((4, 1), np.float32))


def test_errors_of_torch_are_recognised() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits the address space")
def test_a_real_limit_of_the_address_space() -> None:
    """onnxruntime in a process that has 30 MB left; a batch of 48 takes several times that."""
    code = """
        import resource, warnings
        import numpy as np, twotower
        model = twotower.load("small", threads=1)
        shape = (48, 3, *[model.config.preprocess.image_size] * 2)
        pixel_values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        expected = model.encode_pixels(pixel_values[:1])
        [line] = [line for line in open("/proc/self/status") if line.startswith("VmSize")]
        limit = int(line.split()[1]) * 1024 + 30 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            image_embeds = model.encode_pixels(pixel_values)
        assert "for a batch of 48; 24 are" in str(shown[0].message)
        assert image_embeds.shape == (48, model.config.embed_dim)
        np.testing.assert_allclose(image_embeds[:1], expected, atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
