"""Stop strings: where the reader wants the text to end. Only the client knows them; on the wire are stop tokens alone.

The provider goes on to its own end and is paid for it; the ids and receipts stay whole, so that they verify.
"""

from __future__ import annotations

from collections.abc import Sequence

from client.errors import BadRequest


def check_stop_strings(stop_strings: Sequence[str]) -> None:
    """Raises BadRequest for an empty one."""
    if isinstance(stop_strings, str) or not all(stop_strings):
        raise BadRequest(
            "A stop string has at least one character, and several are a list.",
            hint="Nothing was sent. Leave it out, or name the text that ends the answer.",
        )


def cut(text: str, stop_strings: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first occurrence of any stop string, and which one that was; the whole text without one.

    Of several that begin at the same place the longest is named.
    """
    found = [(text.find(stop), -len(stop), stop) for stop in stop_strings if stop in text]
    if not found:
        return text, None
    at, _, stop = min(found)
    return text[:at], stop
