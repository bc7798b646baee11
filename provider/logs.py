"""Logs on standard error, JSON lines unless a person reads: what happened, never prompts, answers or keys."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog


def configure(stream: TextIO | None = None, level: int = logging.INFO, *, style: str = "json") -> None:
    """Sends structlog's and the standard library's records to `stream`.

    Args:
        stream: where to; None is standard error as it is now, not as it was when this module was imported.
        style: "json", one object a line, or "console".
    """
    stream = stream or sys.stderr
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if style == "console":  # plain tracebacks: rich ones would show local variables, prompts and keys among them
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("provider").setLevel(level)
    logging.getLogger("market").setLevel(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
