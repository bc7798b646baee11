"""The C kernels compiled for another processor, and for sanitizers: forward passes of a tiny model, bit by bit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from market.inference import reference
from market.inference.forward_selftest import small_model
from market.inference.model import Int64Array, IntegerModel, Linear
from market.inference.native import library as lib
from market.models.pack import Pack

NATIVE = Path(lib.__file__).parent
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-static"]
COMPILER = re.compile(r"aarch64-linux-gnu-gcc(-\d+)?")  # neither gcc-ar nor gcc-nm
IDS = list(range(3, 213))  # enough for pieces of a batch on three threads
pytestmark = pytest.mark.slow


def ids_for(model: IntegerModel) -> list[int]:
    """As many as the model has room for."""
    return IDS[: min(len(IDS), model.config.context, model.config.vocabulary - IDS[0])]


def model_file(model: IntegerModel, path: Path) -> Path:
    """What harness.c reads."""

    def number(*values: int) -> bytes:
        return np.array(values, dtype=np.int64).tobytes()

    def matrix(m: Linear) -> bytes:
        return number(*m.weight.shape, m.exponent) + m.weight.tobytes() + m.multiplier.tobytes()

    c, tables = model.config, model.tables
    shapes = [getattr(c, name) for name in lib.SHAPES]
    parts = [number(*shapes, c.epsilon, c.score_multiplier), matrix(model.embedding), matrix(model.head)]
    for layer in model.layers:
        parts += [layer.attention_norm.tobytes(), layer.feed_forward_norm.tobytes()]
        parts += [matrix(getattr(layer, name)) for name in lib.MATRICES]
        parts.append(number(layer.query_fraction, layer.key_fraction, layer.value_fraction))
    parts += [model.output_norm.tobytes(), *(getattr(tables, name).tobytes() for name in lib.TABLES)]
    ids = ids_for(model)
    parts += [number(len(ids)), np.array(ids, dtype=np.int32).tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def cross_tools() -> tuple[str, str]:
    """A compiler for aarch64 and an emulator of it, by any name that distributions give them; skips without."""
    compilers = [name for folder in os.get_exec_path() for name in Path(folder).glob("aarch64-linux-gnu-gcc*")]
    compiler = next((str(path) for path in sorted(compilers) if COMPILER.fullmatch(path.name)), None)
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs a gcc for aarch64 and qemu-aarch64 (Debian: gcc-aarch64-linux-gnu qemu-user-static)")
    return compiler, emulator


def build(compiler: str, flags: list[str], out: Path, harness: Path = Path(__file__).parent / "harness.c") -> Path:
    sources = [str(path) for path in sorted(NATIVE.glob("*.c"))]
    command = [compiler, *flags, f"-I{NATIVE}", "-o", str(out), str(harness), *sources, "-lm"]
    subprocess.run(command, check=True)
    return out


def check(command: list[str], model: IntegerModel) -> None:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # the harness ends without tidying up
    output = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=600)
    assert (output.returncode, output.stderr.decode()) == (0, "")
    ids = ids_for(model)
    expected = reference.forward(model, ids)
    size = 2 * expected.nbytes
    logits = np.frombuffer(output.stdout[:size], dtype=np.int64).reshape(2, len(ids), -1)
    assert np.array_equal(logits[0], expected)
    assert np.array_equal(logits[1], expected)
    half = len(ids) // 2
    other = reference.forward(model, [*ids[half:], ids[0]])
    alone, together = greedy(expected), [*greedy(expected[:half]), *greedy(other[:-1])]
    tokens = np.frombuffer(output.stdout[size:], dtype=np.int32).tolist()
    assert tokens == [*alone, *alone, *together, *greedy(expected[half : half + 1]), *greedy(other[-1:]), *alone]


def greedy(logits: Int64Array) -> list[int]:
    return [reference.argmax(row) for row in logits]


@pytest.fixture(params=["tiny", "odd"])
def model(request: pytest.FixtureRequest, tiny_pack: Pack) -> IntegerModel:
    """The tiny pack, and a model whose shapes fill no register."""
    return tiny_pack.model if request.param == "tiny" else small_model(tiny_pack.model.tables)


def test_portable_kernel_on_aarch64_equals_the_reference(model: IntegerModel, tmp_path: Path) -> None:
    compiler, emulator = cross_tools()
    program = build(compiler, ["-O3", *FLAGS], tmp_path / "harness")
    for threads in ("1", "2"):
        check([emulator, str(program), str(model_file(model, tmp_path / "model")), "portable", threads], model)


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_kernels_under_a_sanitizer_equal_the_reference(sanitizer: str, model: IntegerModel, tmp_path: Path) -> None:
    """Neither a read past an end nor undefined arithmetic nor a race of threads."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc on PATH")
    flags = [flag for flag in FLAGS if flag != "-static"]
    flags += ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    program = build(compiler, flags, tmp_path / "harness")
    for kernel in lib.supported():
        for threads in ("1", "3"):
            check([str(program), str(model_file(model, tmp_path / "model")), kernel, threads], model)
