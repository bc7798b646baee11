"""A trace's operations in C compiled for another processor, and for sanitizers: rows, attention, roots of sections."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from market.hashing import keccak256
from market.inference.native import library
from market.verification import attention, exact, roots
from market.verification.geometry import Geometry
from market.verification.leaves import payloads
from market.verification.tree import Keccak, empty
from tests.unit.market.inference.test_native_elsewhere import FLAGS, build, cross_tools
from tests.unit.market.verification.setting import Setting
from tests.unit.market.verification.test_tree import widths

HARNESS = Path(__file__).parent / "trace_harness.c"
POSITIONS, HEADS, KV_HEADS, SIZE, FRACTION = (
    131,
    4,
    2,
    18,
    9,
)  # a head that fills no register, a block of three positions
EPSILON, MULTIPLIER = 42949, 47274
pytestmark = pytest.mark.slow


class Case:
    """What the harness reads, and what it has to write."""

    def __init__(self, tiny: Setting) -> None:
        self.input, self.expected = b"", b""
        self._chance, self._tables = np.random.default_rng(3), tiny.model.tables
        self._rows()
        self._attention()
        self._messages()
        for lengths in ((1, 1), (60, 80)):
            self._sections(Geometry(roots._TESTED, *lengths))
        self._numbers(0)

    def _numbers(self, *values: int) -> None:
        self.input += np.array(values, dtype=np.int64).tobytes()

    def _give(self, *arrays: np.ndarray) -> None:
        self.expected += b"".join(array.astype(np.int64).tobytes() for array in arrays)

    def _rows(self) -> None:
        limits = (2**52 - 1, 2**38, 2**23, 2**16, 5, 1, 0)
        x = np.stack([self._chance.integers(-limit, limit + 1, 77) for limit in limits])
        gain = self._chance.integers(-(2**15), 2**15, 77).astype(np.int32)
        self._numbers(*x.shape, EPSILON)
        self.input += x.tobytes() + gain.tobytes()
        statistic = exact.norm_statistic(x, EPSILON)
        y = exact.normalise(x, statistic, gain)
        for row, before in ((y, [statistic]), (x, [])):
            maximum = exact.maximum_statistic(row)
            self._give(np.concatenate([*before, maximum], axis=1), exact.quantise(row.copy(), maximum[:, :1]))

    def _attention(self) -> None:
        t, right, limit = self._tables, 22, 32767
        cos, sin = (
            self._chance.integers(-(2**15), 2**15 + 1, (POSITIONS, SIZE // 2), dtype=np.int32) for _ in range(2)
        )
        z = self._chance.integers(-(2**24), 2**24, (POSITIONS, HEADS, SIZE))
        z[0] = 2**36
        key, value = self._chance.integers(-limit, limit + 1, (2, POSITIONS, KV_HEADS, SIZE))
        key[:70], value[:3] = limit, -limit
        key[80:] >>= 6
        self._numbers(POSITIONS, HEADS, KV_HEADS, SIZE, FRACTION, MULTIPLIER, right, 16 - FRACTION)
        self.input += b"".join(a.tobytes() for a in (t.exp2_high, t.exp2_low, cos, sin, z, key, value))
        self._numbers(attention.HIDDEN)
        query = exact.to_cache(exact.rotate(z, cos, sin), FRACTION)
        scored = attention.scores(query, key, MULTIPLIER, right)
        weights, total, fields = attention.softmax(scored, exact.Exponential(t), lambda *_: None)
        self._give(query, scored, fields, *attention.mix(weights, total, value, FRACTION, lambda *_: None))

    def _messages(self) -> None:
        length = np.arange(600, dtype=np.int32)
        self._chance.shuffle(length)
        offset = (np.cumsum(length) - length).astype(np.int64)
        data = self._chance.integers(0, 256, int(length.sum()), dtype=np.uint8)
        self._numbers(len(length))
        self.input += offset.tobytes() + length.tobytes()
        self._numbers(len(data))
        self.input += data.tobytes()
        for start, size in zip(offset.tolist(), length.tolist(), strict=True):
            self.expected += keccak256(b"\0" + data[start : start + size].tobytes())

    def _sections(self, geometry: Geometry) -> None:
        for group in range(geometry.groups):
            for operation in geometry.operations(group):
                section = geometry.section(group, operation)
                values = roots._tested_values(section, geometry, self._chance)
                elements, (*strides, first, per_row, per_block, step, chunk) = roots._layout(section, values.elements)
                bits = section.block_bits if section.blocked else roots._WHOLE_ROW
                self._numbers(section.rows, *strides, first, per_row, per_block, step, chunk, section.slots, bits)
                self._numbers(section.statistic, section.size, int(elements.dtype == np.int32))
                self._numbers(section.slot_bits, section.row_bits)
                self.input += b"".join(empty(level) for level in range(section.bits))
                self.input += b"" if values.statistic is None else values.statistic.tobytes()
                self._numbers(elements.size)
                self.input += elements.tobytes()
                self.expected += roots.section_tree(Keccak(0), section, payloads(section, values)).root


def check(command: list[str], case: Case, path: Path) -> None:
    path.write_bytes(case.input)
    output = subprocess.run(command, env=dict(os.environ), capture_output=True, check=False, timeout=600)
    assert (output.returncode, output.stderr.decode()) == (0, "")
    assert output.stdout == case.expected


def test_portable_rows_on_aarch64_are_numpys(tiny: Setting, tmp_path: Path) -> None:
    compiler, emulator = cross_tools()
    program = build(compiler, ["-O3", *FLAGS], tmp_path / "harness", HARNESS)
    check([emulator, str(program), str(tmp_path / "case"), "portable", "1"], Case(tiny), tmp_path / "case")


def test_rows_under_sanitizers_are_numpys(tiny: Setting, tmp_path: Path) -> None:
    """Neither a read past an end nor undefined arithmetic, with any kernel and any width of keccak."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc on PATH")
    flags = [flag for flag in FLAGS if flag != "-static"]
    flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program, case = build(compiler, flags, tmp_path / "harness", HARNESS), Case(tiny)
    for kernel in library.supported():
        for width in widths()[1:]:
            check([str(program), str(tmp_path / "case"), kernel, str(width)], case, tmp_path / "case")
