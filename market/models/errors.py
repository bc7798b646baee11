"""What packing, loading and rendering refuse, and why.

AssayError
└── ModelError
    ├── SourceError     the model file cannot be packed (unknown architecture, missing or odd tensor)
    ├── RecipeError     the recipe does not belong to this source, or its result differs from what it promises
    ├── BoundError      an intermediate could leave its integer type; such a model is never packed
    ├── FetchError      a source file cannot be had from its package
    ├── PackError       a part of a pack is missing, corrupted or contradictory
    └── TextError       messages that the chat template cannot render, text that is no text
"""

from __future__ import annotations

from typing import ClassVar

from market.errors import AssayError


class ModelError(AssayError):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 2


class SourceError(ModelError):
    """``part`` of the source model (a tensor, a key, a file) is not what the packer can use."""

    def __init__(self, part: str, reason: str) -> None:
        self.part = part
        super().__init__(
            f"Cannot pack: {part}: {reason}. Nothing was written.",
            hint="Use a llama-architecture GGUF file or safetensors snapshot.",
            part=part,
        )


class RecipeError(ModelError):
    """``field`` of the recipe says ``expected``, the source or the result is ``found``."""

    def __init__(self, field: str, expected: str, found: str) -> None:
        self.field, self.expected, self.found = field, expected, found
        super().__init__(
            f"The recipe's {field} is {expected}, found {found}. Nothing was written.",
            hint="Use the recipe that belongs to this source file.",
            field=field,
            expected=expected,
            found=found,
        )


class BoundError(ModelError):
    """``quantity`` of ``operation`` needs ``bits`` bits, ``limit`` are safe: the model is refused."""

    def __init__(self, operation: str, quantity: str, bits: int, limit: int) -> None:
        self.operation, self.quantity, self.bits, self.limit = operation, quantity, bits, limit
        super().__init__(
            f"Bound not proved: {quantity} of {operation} is {bits}, the limit is {limit}. "
            "Some prompt could overflow, so the model was not packed.",
            hint="Other fraction bits or a smaller context in the recipe may help.",
            operation=operation,
            quantity=quantity,
            bits=bits,
            limit=limit,
        )


class PackError(ModelError):
    """``part`` of the pack at ``path`` is bad; nothing of it was used."""

    def __init__(self, path: str, part: str, reason: str) -> None:
        self.path, self.part = path, part
        super().__init__(
            f"Pack {path}: {part} {reason}. Nothing of it was used.",
            hint="Pack the model again, or fetch the pack again.",
            part=part,
        )


class FetchError(ModelError):
    """``part`` (a package or a file in it) could not be fetched; what was fetched before is kept."""

    exit_code: ClassVar[int] = 3

    def __init__(self, part: str, reason: str) -> None:
        self.part = part
        super().__init__(
            f"Cannot fetch {part}: {reason}. Nothing was lost.",
            hint="Check the connection to the package index and run the same command again.",
            part=part,
        )


class TextError(ModelError):
    """The messages or the text cannot be turned into token ids."""
