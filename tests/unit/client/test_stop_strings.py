"""Stop strings cut text, wherever the tokens end."""

from __future__ import annotations

import pytest

from client.errors import BadRequest
from client.stop_strings import check_stop_strings, cut
from market.models.text import Text
from market.models.tiny import RandomSource


@pytest.mark.parametrize(
    ("stop_strings", "expected"),
    [
        ((), ("one two three", None)),
        (("four",), ("one two three", None)),
        (("two",), ("one ", "two")),
        (("three", "two"), ("one ", "two")),
        (("one",), ("", "one")),
        (("t", "two"), ("one ", "two")),
        (("e t",), ("on", "e t")),
    ],
)
def test_cut_ends_before_the_first_stop_string(stop_strings: tuple[str, ...], expected: tuple[str, str | None]) -> None:
    assert cut("one two three", stop_strings) == expected


def test_cut_finds_strings_that_span_tokens_and_characters_that_span_them() -> None:
    source = RandomSource()
    text = Text(source.tokenizer, source.template)
    answer = "the cat … and the dog"
    ids = text.encode(answer)
    pieces = [text.decode([token]) for token in ids]
    for stop in ("cat … and", "t …", "…", "e dog"):
        assert not any(stop in piece for piece in pieces)  # no token holds it
        assert cut(text.decode(ids), (stop,)) == (answer[: answer.index(stop)], stop)


@pytest.mark.parametrize("stop_strings", [("",), ("end", ""), "end"])
def test_stop_strings_that_are_none_are_refused(stop_strings: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest, match="at least one character"):
        check_stop_strings(stop_strings)
