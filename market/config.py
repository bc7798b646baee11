"""Where things lie by default. ASSAY_HOME moves all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from platformdirs import user_data_path

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


def queue_path(folder: Path, chain_id: int, address: str) -> Path:
    """The one transaction queue of a key on a chain below `folder`."""
    return folder / f"transactions-{chain_id}-{address.lower()}.sqlite"


def index_url(folder: Path, chain_id: int, registry: str) -> str:
    """SQLAlchemy URL of the local index of a market below `folder`."""
    return f"sqlite:///{(folder / f'index-{chain_id}-{registry.lower()}.sqlite').resolve()}"
