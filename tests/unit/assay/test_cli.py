"""What the root of the command line prints when something failed."""

from __future__ import annotations

import json

import pytest

from assay.cli import report

HOSTILE = "model \x1b[2J\x1b]0;owned\x07\x9b31m\x7f\u202eevil\u2066\r[red]x[/red]"


def test_error_with_a_strangers_text_reaches_the_terminal_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report({}, f"There is no {HOSTILE}.", f"Not {HOSTILE}.", as_json=False)
    printed = capsys.readouterr().err
    assert printed.replace("\n", "").isprintable()
    assert "There is no model [2J]0;owned31mevil[red]x[/red]." in printed


def test_error_of_several_lines_keeps_them(capsys: pytest.CaptureFixture[str]) -> None:
    report({}, "first\nsecond", "", as_json=False)
    assert capsys.readouterr().err == "error: first\nsecond\n"


def test_error_as_json_is_printable_and_gives_the_text_back(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"error": {"code": "X", "message": HOSTILE.replace("\x7f", ""), "details": {}}}
    report(document, "", "", as_json=True)
    printed = capsys.readouterr().out
    assert printed.strip().isprintable()
    assert json.loads(printed) == document
