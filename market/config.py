"""Where things lie by default. ASSAY_HOME moves all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from platformdirs import user_data_path
from pydantic import ValidationError

HOME_VARIABLE = "ASSAY_HOME"


@dataclass(frozen=True)
class Home:
    """One folder for everything a user keeps: keys, queues, indexes, the local network."""

    path: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """ASSAY_HOME, else the platform's folder for user data (~/.local/share/assay on Linux)."""
        chosen = environment.get(HOME_VARIABLE)
        return cls(Path(chosen).expanduser() if chosen else user_data_path("assay", appauthor=False))

    @property
    def manifest(self) -> Path:
        """The deployment manifest of the market in use."""
        return self.path / "deployment.json"

    @property
    def keystore(self) -> Path:
        return self.path / "keystore.json"


@dataclass(frozen=True)
class LocalNetworkNote:
    """What `assay up` wrote down about the network it started: where it is, and its client's keystore."""

    rpc_url: str
    ws_url: str
    deployment: str
    client_keystore: str
    password_file: str

    @classmethod
    def of(cls, home: Home) -> Self | None:
        """The note of the network below this home; None where there is none (a stopped network leaves its note)."""
        try:
            note = json.loads((home.path / "network" / "network.json").read_text(encoding="utf-8"))
            return cls(**{field.name: str(note[field.name]) for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def wrong_setting(error: ValidationError) -> tuple[str, str]:
    """The first setting that a pydantic model refused, and why, in words without the library's own."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return name, "there is no such setting"
    if first["type"] == "missing":
        return name, "it is missing"
    return name, first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")


def queue_path(folder: Path, chain_id: int, address: str) -> Path:
    """The one transaction queue of a key on a chain below `folder`."""
    return folder / f"transactions-{chain_id}-{address.lower()}.sqlite"


def index_url(folder: Path, chain_id: int, registry: str) -> str:
    """SQLAlchemy URL of the local index of a market below `folder`."""
    return f"sqlite:///{(folder / f'index-{chain_id}-{registry.lower()}.sqlite').resolve()}"
