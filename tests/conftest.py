"""What every suite shares: the tiny pack and the real model's."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx._transports.default
import httpx._utils
import pytest
import requests.compat
import requests.utils
import structlog

from market.models.fetch import ensure_pack
from market.models.tiny import write_tiny_pack
from tests import warm

SHARED = ("ape", "e2e", "integration")
"""Folders whose files share a network or a chain: two workers would build two of each."""

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "smollm2-135m-instruct.toml"
REAL_PACK = ROOT / "build" / "models" / "smollm2-135m-instruct"


def _read_proxies_once() -> None:
    """Agents in threads look for proxies with every request, by walking through an environment in which pytest changes
    a variable for every test: now and then it is gone when its value is read.
    """
    proxies = urllib.request.getproxies()
    for module in (urllib.request, requests.utils, requests.compat, httpx._utils):
        for name in ("getproxies", "getproxies_environment"):
            if hasattr(module, name):
                setattr(module, name, proxies.copy)


def _read_certificates_once() -> None:
    """Every client of httpx, that is every `httpx.post`, reads the certificates of all authorities: 30 ms."""
    module = httpx._transports.default
    module.create_ssl_context = cache(module.create_ssl_context)


_read_proxies_once()
_read_certificates_once()
warm.install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells workers what to keep together: a folder where its files share processes, else a file; or what a test says.

    First of its kind: xdist's own hook writes the groups into the ids, and must find them.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is not None:
            continue
        parts = item.path.relative_to(ROOT / "tests").parts
        group = item.path.parent if parts[0] in SHARED else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Takes back what a test configured: a command run in this process logs to a stream that ends with its test."""
    loggers = [logging.getLogger(name) for name in (None, "provider", "market")]
    levels = [logger.level for logger in loggers]
    yield
    root = loggers[0]  # pytest's own handlers stay
    root.handlers[:] = [h for h in root.handlers if not isinstance(h.formatter, structlog.stdlib.ProcessorFormatter)]
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of the same architecture that takes milliseconds."""
    path = tmp_path_factory.mktemp("tiny") / "pack"
    write_tiny_pack(path)
    return path


@pytest.fixture(scope="session")
def real_pack() -> Path:
    """SmolLM2-135M-Instruct, made once and shared with the demo."""
    ensure_pack(RECIPE, REAL_PACK)
    return REAL_PACK
