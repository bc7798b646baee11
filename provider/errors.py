"""What the agent refuses, at start-up and in business.

AssayError
├── ConfigError
│   └── PortInUse        another program listens where the agent should
├── MarketError
│   └── Refusal          this provider will not do that, and says why with numbers
├── JournalError         the agent's own record is unreadable or of another version
└── Stopping             the agent is shutting down
"""

from __future__ import annotations

from typing import Any, ClassVar

from market.errors import AssayError, ConfigError, MarketError


class PortInUse(ConfigError):
    """Another program listens at the address."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"Port {port} on {host} is taken by another program. Nothing was started.",
            hint="Stop that program, or set another `port` in the configuration.",
            host=host,
            port=port,
        )


class JournalError(AssayError):
    """The journal cannot be used as it is; it was left untouched."""

    exit_code: ClassVar[int] = 2


class Stopping(AssayError):
    """The agent is shutting down; the journal knows where to go on."""

    def __init__(self) -> None:
        super().__init__("The agent is stopping.", hint="Ask again once it runs.", code="STOPPING")


class Refusal(MarketError):
    """This provider will not do what was asked. Nothing was promised, stored or charged.

    Attributes:
        status: HTTP status that carries it.
        retry_after: seconds after which asking again makes sense, None when it never does.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        status: int = 409,
        retry_after: int | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, hint=hint, code=code, **details)
        self.status = status
        self.retry_after = retry_after
