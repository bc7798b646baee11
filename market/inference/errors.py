"""What an engine refuses, and why.

AssayError
└── InferenceError
    ├── PromptError          empty, too long, or with ids outside the vocabulary
    ├── SamplingError        sampling fields that no request may have
    ├── SelfTestError        the fast arithmetic of this machine is not exact
    └── BackendError         the device, kernels or matmul path asked for does not exist here
"""

from __future__ import annotations

from typing import ClassVar

from market.errors import AssayError


class InferenceError(AssayError):
    """Base of everything an engine raises on purpose."""


class PromptError(InferenceError):
    """The request cannot be run on this model; nothing was computed.

    ``limit`` names the limit that was broken (``empty``, ``vocabulary``, ``context``, ``outputTokens``,
    ``stopTokens``), ``value`` what came, ``allowed`` the most (or least) that is allowed.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, limit: str, value: int, allowed: int, message: str, hint: str = "") -> None:
        self.limit, self.value, self.allowed = limit, value, allowed
        super().__init__(
            f"{message} Nothing was computed or charged.",
            hint=hint,
            limit=limit,
            value=value,
            allowed=allowed,
        )


class SamplingError(InferenceError):
    """``field`` of the request cannot be ``value``; nothing was computed."""

    exit_code: ClassVar[int] = 2

    def __init__(self, field: str, value: int, message: str) -> None:
        self.field, self.value = field, value
        super().__init__(f"{message} Nothing was computed or charged.", field=field, value=value)


class SelfTestError(InferenceError):
    """A fast operation differs from the exact one. ``check`` names the failed check, ``others`` kernels that do not
    depend on what failed.
    """

    def __init__(self, check: str, others: str = "portable, torch or numpy") -> None:
        self.check = check
        super().__init__(
            f"Self-test failed: {check} differs from the exact integers. This machine would give wrong answers, so "
            "nothing was served.",
            hint="Build the package anew (pip install --force-reinstall --no-deps), or choose other kernels "
            f"(kernels = {others}).",
            check=check,
        )


class BackendError(InferenceError):
    """``setting`` is a device, a kernel or a matmul path that this machine lacks."""

    exit_code: ClassVar[int] = 2

    def __init__(self, setting: str, reason: str) -> None:
        self.setting = setting
        super().__init__(
            f"Cannot use {setting}: {reason}. Nothing was started.",
            hint="Change the engine's configuration.",
            setting=setting,
        )
