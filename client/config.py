"""The client's configuration: options of the command line, then ASSAY_ variables, then a TOML file, then the local
network that `assay up` keeps, then the user's own folder."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from market.config import Home, LocalNetworkNote, wrong_setting
from market.errors import ConfigError

FILE_NAME = "client.toml"


class ClientConfig(BaseSettings):
    """Each field is also a variable: ASSAY_RPC, ASSAY_DEPLOYMENT, … An empty one is none.

    Attributes:
        rpc, ws: URLs of the chain's HTTP and (optional) WebSocket endpoint; they and `index_url` may hold keys, so no
            repr shows them. `rpc` may be several, in order of preference: with commas between them, or a list.
        deployment: the market's manifest; keystore: the account's encrypted key.
        password_file: holds the keystore's password; else ASSAY_PASSWORD, else it is asked for.
        data_dir: transaction queue, jobs, index, cached tokenizers.
        index_url: SQLAlchemy URL of the index (sqlite:///…, postgresql://…) instead of a SQLite file in data_dir.
        packs: folders of local model packs; in the variable a JSON list, or paths with colons between them.
        quote_timeout: seconds that providers have for a quote.
        allow_private_endpoints: talk to providers in private networks; unset, a development chain allows this machine.
    """

    model_config = SettingsConfigDict(env_prefix="ASSAY_", extra="forbid", frozen=True, env_ignore_empty=True)

    rpc: str | None = Field(default=None, repr=False)
    ws: str | None = Field(default=None, repr=False)
    deployment: Path | None = None
    keystore: Path | None = None
    password_file: Path | None = None
    data_dir: Path | None = None
    index_url: str | None = Field(default=None, repr=False)
    packs: Annotated[tuple[Path, ...], NoDecode] = ()
    allow_private_endpoints: bool | None = None
    quote_timeout: float = Field(default=1.0, gt=0, le=60)

    @field_validator("rpc", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value

    @field_validator("packs", mode="before")
    @classmethod
    def _several_paths(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return json.loads(value) if value.lstrip().startswith("[") else [p for p in value.split(os.pathsep) if p]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings


def load_config(
    options: Mapping[str, Any], environment: Mapping[str, str], config_file: Path | None = None
) -> ClientConfig:
    """Puts the sources together; options that are None are not given.

    Raises:
        ConfigError: a file is unreadable, or a value malformed or unknown.
    """
    home = Home.of(environment)
    try:
        given = ClientConfig(**{name: value for name, value in options.items() if value is not None})
        merged = _file(config_file or home.path / FILE_NAME, required=config_file is not None) | _set(given)
        if not {"rpc", "deployment"} & set(merged):
            merged = _local_network(home) | merged
        merged = {"deployment": home.manifest, "keystore": home.keystore, "data_dir": home.path / "client"} | merged
        return ClientConfig(**merged)
    except ValidationError as error:
        name, reason = wrong_setting(error)
        raise ConfigError(
            f"The setting {name} cannot be used: {reason}.", hint="See `assay job post --help`.", setting=name
        ) from None


def _set(config: ClientConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.model_fields_set}


def _file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"There is no configuration file {path}.", path=str(path)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration file {path} is unreadable: {error}.", path=str(path)) from None


def _local_network(home: Home) -> dict[str, Any]:
    """The network that `assay up` left a note about; {} where there is none."""
    note = LocalNetworkNote.of(home)
    if note is None:
        return {}
    return {
        "rpc": note.rpc_url,
        "ws": note.ws_url,
        "deployment": note.deployment,
        "keystore": note.client_keystore,
        "password_file": note.password_file,
    }
