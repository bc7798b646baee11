"""The safetensors container: mapped without copying, written as a stream.

The library of that name reads whole tensors into memory and knows no bfloat16 in numpy; a pack is mapped and
written row by row. The format is an 8-byte little-endian length, that much JSON, then the bytes of the
tensors (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from market.inference.model import AnyArray

Bytes = npt.NDArray[np.uint8]
HEADER_LIMIT = 100_000_000  # bytes; the library's own limit
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_DTYPES["BF16"] = "<u2"  # numpy has no bfloat16: the bits are mapped, `to_float` widens them


class FormatError(ValueError):
    """The file is no well-formed safetensors file."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its safetensors type name and the mapped, read-only array."""

    dtype: str
    array: AnyArray

    def to_float(self) -> AnyArray:
        """The values as float32 or wider, exactly."""
        if self.dtype == "BF16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        return self.array.astype(np.float32) if self.dtype in ("F16", "F32") else self.array.astype(np.float64)


def map_file(path: Path) -> Bytes:
    """A file's bytes as a read-only map. Raises OSError when it is unreadable."""
    return np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, np.uint8)


def map_tensors(path: Path) -> dict[str, Entry]:
    """Every tensor of ``path`` as a read-only map of the file. Raises FormatError, or OSError when
    unreadable.
    """
    return tensors_of(map_file(path))


def tensors_of(file: Bytes) -> dict[str, Entry]:
    """Every tensor of a file's bytes, without copying them. Raises FormatError."""
    length = int.from_bytes(file[:8], "little") if len(file) >= 8 else 0
    if not 2 <= length <= min(HEADER_LIMIT, len(file) - 8):
        raise FormatError("bad header length")
    try:
        header = json.loads(file[8 : 8 + length].tobytes())
    except ValueError as error:
        raise FormatError("header is no JSON") from error
    if not isinstance(header, dict):
        raise FormatError("header is no object")
    data = file[8 + length :]
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            flat = data[start:end].view(_DTYPES[dtype])
            entries[name] = Entry(dtype, flat.reshape(shape).view(np.ndarray))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"tensor {name} is malformed") from error
    return entries


class Writer:
    """Writes tensors one after the other, each in as many pieces as the caller likes, in the order of
    ``shapes``.

    ``shapes``: name → (safetensors type name, shape). Closing early leaves a short file; the caller discards
    it.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        header: dict[str, object] = {}
        offset = 0
        for name, (dtype, shape) in shapes.items():
            count = int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + count]}
            offset += count
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 64 + 56)  # so that the data starts on a 64-byte boundary
        self._file = path.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)

    def write(self, array: AnyArray) -> None:
        """Appends the array's bytes."""
        self._file.write(np.ascontiguousarray(array).tobytes())

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
