"""The roots that name a model (docs/numerics.md, section 7). Leaf = keccak256(0x00 ‖ payload), big-endian
throughout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from market.hashing import keccak256, leaf_hash, merkle_root
from market.inference.model import Int8Array, Int32Array, IntegerModel, Linear, Tables
from market.models.program import CHUNK, Operation, TensorSpec
from market.types import Model

TABLE_CHUNK = 1024  # bytes
_ROWS_AT_ONCE = 4096
ByteArray = npt.NDArray[np.uint8]


def weights_root(model: IntegerModel, specs: Sequence[TensorSpec]) -> bytes:
    """Root over every weight row and every 64 gains, tensors in the order of ``specs``."""
    return merkle_root(weight_leaves(model, specs))


def weight_leaves(model: IntegerModel, specs: Sequence[TensorSpec]) -> Iterator[bytes]:
    """Leaf hashes in tree order."""
    for number, spec in enumerate(specs):
        tensor = tensor_of(model, spec.name)
        if isinstance(tensor, Linear):
            yield from row_leaves(number, tensor.weight, tensor.multiplier)
        else:
            yield from gain_leaves(number, tensor)


def tensor_of(model: IntegerModel, name: str) -> Linear | Int32Array:
    """The matrix or gain that carries ``name`` in the weight tree."""
    holder: object = model
    if name.startswith("layers."):
        _, layer, name = name.split(".")
        holder = model.layers[int(layer)]
    return cast("Linear | Int32Array", getattr(holder, name))


def row_leaves(tensor: int, weight: Int8Array, multiplier: Int32Array) -> Iterator[bytes]:
    """Leaf hashes of a matrix's rows."""
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        for row in row_payloads(tensor, weight, multiplier, start, min(start + _ROWS_AT_ONCE, len(weight))):
            yield leaf_hash(row.tobytes())


def row_payloads(tensor: int, weight: Int8Array, multiplier: Int32Array, start: int, stop: int) -> ByteArray:
    """Payloads [rows, bytes] of some rows of a matrix, one leaf a row: uint16 tensor ‖ uint32 row ‖ uint32 multiplier ‖
    zeros to 32 ‖ int8[K] padded to 32.
    """
    columns = weight.shape[1]
    block = np.zeros((stop - start, 32 + columns + -columns % 32), dtype=np.uint8)
    block[:, 32 : 32 + columns] = weight[start:stop].view(np.uint8)
    block[:, 0:2] = np.frombuffer(struct.pack(">H", tensor), dtype=np.uint8)
    block[:, 2:6] = np.arange(start, stop, dtype=">u4").view(np.uint8).reshape(-1, 4)
    block[:, 6:10] = multiplier[start:stop].astype(">u4").view(np.uint8).reshape(-1, 4)
    return block


def gain_leaves(tensor: int, gain: Int32Array) -> Iterator[bytes]:
    """Leaf hashes of a gain."""
    return (leaf_hash(gain_payload(tensor, gain, row)) for row in range(-(-len(gain) // CHUNK)))


def gain_payload(tensor: int, gain: Int32Array, row: int) -> bytes:
    """The row-th leaf of 64 gains, shaped like a matrix's row with multiplier 0: header ‖ int32[64], zeros after the
    last gain.
    """
    values = np.zeros(CHUNK, dtype=">i4")
    part = gain[row * CHUNK : (row + 1) * CHUNK]
    values[: len(part)] = part
    return struct.pack(">HII22x", tensor, row, 0) + values.tobytes()


def tables_root(tables: Tables) -> bytes:
    """Root over exp2_high, exp2_low, rope_cos, rope_sin as int32, each cut into 1,024-byte leaves (the last
    zero-padded).
    """
    return merkle_root(leaf_hash(payload) for payload in table_payloads(tables))


def table_payloads(tables: Tables) -> Iterator[bytes]:
    """Leaves of the tables' tree in order."""
    for table in (tables.exp2_high, tables.exp2_low, tables.rope_cos, tables.rope_sin):
        data = table.astype(">i4").tobytes()
        data += bytes(-len(data) % TABLE_CHUNK)
        for start in range(0, len(data), TABLE_CHUNK):
            yield data[start : start + TABLE_CHUNK]


def program_root(operations: Iterable[Operation]) -> bytes:
    """Root over the operations in execution order."""
    return merkle_root(leaf_hash(operation.leaf_payload()) for operation in operations)


def model_of(
    model: IntegerModel, specs: Sequence[TensorSpec], operations: Iterable[Operation], tokenizer: bytes, template: bytes
) -> Model:
    """All five roots; ``.model_id`` of the result is the model's name."""
    return Model(
        weights_root=weights_root(model, specs),
        program_root=program_root(operations),
        tables_root=tables_root(model.tables),
        tokenizer_hash=keccak256(tokenizer),
        template_hash=keccak256(template),
    )
