"""Exact integer matrix products on fast hardware paths, and the self-test that must pass before any of them
serves.

An int16 activation is split into two signed bytes, q = 256*high + low, and each byte plane is multiplied by
the int8 weights. A plane's sum is at most 128 * L1(row), which packing proves to be below 2^24
(docs/numerics.md, section 6): every partial sum in any order is then an integer that float32 holds exactly,
and int32 has room to spare.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from market.inference.errors import BackendError, SelfTestError

INT8_LEAST_ROWS = 17
INT8_MULTIPLE = 8


class PlaneProduct(Protocol):
    """One way to multiply a byte plane by a weight matrix.

    Attributes:
        name: appears in errors and in `assay doctor`.
        limit: sums of smaller magnitude are exact in any order; packing proves every real one below 2^24.
    """

    name: str
    limit: int

    def prepare(self, weight: torch.Tensor) -> Any:
        """int8 [N, K] → whatever ``multiply`` wants as its second operand."""

    def multiply(self, plane: torch.Tensor, prepared: Any) -> torch.Tensor:
        """Integer-valued plane [M, K] in -128..127 (any dtype) → exact int32 sums [M, N]."""


class Int8Product:
    """oneDNN's int8 product. Wrong without any warning on processors without VNNI (int16 saturation): hence
    the self-test.
    """

    name = "int8"
    limit = 1 << 31

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.t()  # a view: the weights stay in the shared memory map

    def multiply(self, plane: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        return torch._int_mm(plane.to(torch.int8), prepared)


class GuardedWeight(NamedTuple):
    """[K, N] with guards, and how many of its N columns are rows of the weight."""

    weight: torch.Tensor
    rows: int


class GuardedInt8Product:
    """The int8 product of CUDA (cublasLt), which takes more than 16 rows, and columns and weight rows in multiples of
    8: rows and columns of zeros guard what is smaller, and never show in a sum.

    Written from torch's own checks (aten/src/ATen/native/cuda/Blas.cpp, `_int_mm_out_cuda`); never run on a GPU.
    """

    name = "int8"
    limit = 1 << 31

    def prepare(self, weight: torch.Tensor) -> GuardedWeight:
        rows, columns = weight.shape
        more = (0, -columns % INT8_MULTIPLE, 0, -rows % INT8_MULTIPLE)
        return GuardedWeight(torch.nn.functional.pad(weight, more).t() if any(more) else weight.t(), rows)

    def multiply(self, plane: torch.Tensor, prepared: GuardedWeight) -> torch.Tensor:
        rows, columns = plane.shape
        more = (0, prepared.weight.shape[0] - columns, 0, max(INT8_LEAST_ROWS - rows, 0))
        guarded = torch.nn.functional.pad(plane.to(torch.int8), more)
        return torch._int_mm(guarded, prepared.weight)[:rows, : prepared.rows]


class Float32Product:
    """IEEE float32 product of integers; exact because every partial sum is below 2^24. Costs four bytes a
    weight.
    """

    name = "float32"
    limit = 1 << 24

    def prepare(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.float()

    def multiply(self, plane: torch.Tensor, prepared: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(plane.float(), prepared).to(torch.int32)


def forbid_reduced_precision() -> None:
    """Switch TF32 and every other silent loss of float32 bits off, on every device of this process."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def choose(name: str, device: torch.device, weights: Iterable[torch.Tensor]) -> PlaneProduct:
    """The product called ``name`` (``auto``, ``int8``, ``float32``), proved right on these weights.

    ``auto`` takes int8 where it passes and float32 otherwise. Raises SelfTestError naming the check that
    failed, BackendError for an unknown name.
    """
    samples = list(weights)
    int8: PlaneProduct = Int8Product() if device.type == "cpu" else GuardedInt8Product()
    if name == "auto":
        try:
            return proved(int8, device, samples)
        except (SelfTestError, RuntimeError):  # not exact, or not built for this processor or device
            return proved(Float32Product(), device, samples)
    products: dict[str, PlaneProduct] = {"int8": int8, "float32": Float32Product()}
    if name not in products:
        raise BackendError(f"matmul {name}", f"known paths are auto, {', '.join(products)}")
    return proved(products[name], device, samples)


def proved(product: PlaneProduct, device: torch.device, weights: Iterable[torch.Tensor]) -> PlaneProduct:
    """``product``, after comparing it with numpy's int64 product; raises SelfTestError at the first difference.

    Each shape of ``weights`` is tested with its real weights and, for each width, with rows of the largest weights of
    either sign whose sums stay below the product's limit (±127 where they do), against planes of extremes and of fixed
    random bytes: one row, two, and more than a vector register's worth.
    """
    seen: set[tuple[int, ...]] = set()
    for weight in weights:
        columns = weight.shape[1]
        if (columns,) not in seen:
            signs = np.sign(np.cos(np.outer(np.arange(64), np.arange(columns))) + 0.5)  # first row all 1
            largest = min(127, (product.limit - 1) // 128 // columns)
            _check(product, device, torch.from_numpy((largest * signs).astype(np.int8)).to(device))
        if tuple(weight.shape) not in seen:
            _check(product, device, weight)
        seen |= {(columns,), tuple(weight.shape)}
    return product


def _check(product: PlaneProduct, device: torch.device, weight: torch.Tensor) -> None:
    rows, columns = weight.shape
    prepared = product.prepare(weight)
    kept = np.r_[0 : min(rows, 2048), max(rows - 2048, min(rows, 2048)) : rows]  # both ends of a long matrix
    exact = weight.cpu().numpy()[kept].astype(np.int64)
    largest = np.where(exact[-1] < 0, -128, 127)  # lines up with the signs of a row: the largest sum it can make
    extremes = np.stack([np.full(columns, 127), largest, -1 - largest, np.full(columns, -128)])
    planes = np.concatenate([extremes, np.random.default_rng(20240601).integers(-128, 128, (33, columns))])
    expected = np.einsum("mk,nk->mn", planes, exact)
    for count in (1, 2, len(planes)):
        plane = torch.from_numpy(planes[:count].astype(np.int8)).to(device)
        got = product.multiply(plane, prepared).cpu().numpy()[:, kept]
        if not np.array_equal(got, expected[:count]):
            raise SelfTestError(f"matmul {product.name} of {count}x{columns} by {columns}x{rows} on {device}")
