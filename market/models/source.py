"""What the packer reads: shapes, float rows by canonical name, tokenizer and chat template of a published
model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from market.models.quantise import FloatArray


@dataclass(frozen=True)
class Shape:
    """A llama-shaped model as its publisher describes it."""

    vocabulary: int
    context: int  # positions it was trained for
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float  # of RMSNorm
    rope_base: float
    tied: bool  # the head is the embedding


class Source(Protocol):
    """One published model. Names of tensors: those of ``market.models.program.tensors``."""

    shape: Shape
    tokenizer: bytes  # tokenizer.json
    template: bytes  # template.jinja
    stop_tokens: tuple[int, ...]  # as the publisher declares them
    file: str  # name of the file or folder
    sha256: str  # of the file, or of the folder as `folder_sha256` defines it

    def read(self, name: str) -> Iterator[FloatArray]:
        """The tensor as float64 blocks of whole rows [n, columns] (a gain is one row), exact images of the
        source's values.

        Raises SourceError when it is missing, of the wrong shape, or holds NaN or infinity.
        """


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(files: list[Path]) -> str:
    """sha256 over the lines `<sha256 of the file>  <name>` of the given files, sorted by name."""
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(files, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
