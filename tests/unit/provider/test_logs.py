"""Logs: one JSON object a line, or lines for a person; never what stood in a local variable."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from provider import logs


def speak(style: str) -> str:
    stream = io.StringIO()
    logs.configure(stream, style=style)
    structlog.get_logger("provider.test").info("job_final", job_id="0x12", paid="7")
    logging.getLogger("market.test").warning("stuck %s", "0xab")
    secret = "the canary sings"
    try:
        raise ValueError("step")
    except ValueError:
        logging.getLogger("market.test").exception("the watcher stopped")
    assert secret not in stream.getvalue()
    return stream.getvalue()


def test_json_is_one_object_a_line_with_time_level_and_name() -> None:
    lines = [json.loads(line) for line in speak("json").splitlines()]
    assert [line["event"] for line in lines] == ["job_final", "stuck 0xab", "the watcher stopped"]
    assert all({"timestamp", "level", "logger"} <= set(line) for line in lines)
    assert (lines[0]["job_id"], lines[0]["paid"]) == ("0x12", "7")


def test_console_is_for_reading_without_colours_in_a_file() -> None:
    text = speak("console")
    assert "job_final" in text
    assert "job_id=0x12" in text
    assert "\x1b[" not in text
    assert "ValueError: step" in text


def test_standard_error_is_looked_up_when_logs_are_configured(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    structlog.get_logger("provider.test").info("job_final")
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "job_final"
    assert captured.out == ""


def test_what_the_tests_above_configured_is_taken_back() -> None:
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    assert not any(isinstance(formatter, structlog.stdlib.ProcessorFormatter) for formatter in formatters)
    assert not structlog.is_configured()
