"""What of an endpoint's URL may be shown: access keys ride in its path, query and user information."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

NAMELESS = "an endpoint"
"""Shown instead of a URL that names no host."""
HIDDEN = "…"
_SHORTEST_SECRET = 6
"""Characters; shorter parts ("v3", "rpc") are words that occur in messages for other reasons."""


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a URL, for messages, logs and details; NAMELESS where it has no host.

    The host is lower case, as urlsplit gives it; an IPv6 address keeps its brackets.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return NAMELESS
    if not parts.scheme or not host:
        return NAMELESS
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{named}" + ("" if port is None else f":{port}")


def without_secrets(text: str, url: str) -> str:
    """`text` (say, what the endpoint itself said) without any part of `url` that could be an access key."""
    text = text.replace(url, origin_of(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url} if url else set()
    found = {parts.username or "", parts.password or "", *parts.path.split("/"), parts.query, parts.fragment}
    for pair in parts.query.split("&"):
        found.add(pair.partition("=")[2])
    found |= {unquote(part) for part in found}
    return {part for part in found if len(part) >= _SHORTEST_SECRET}
