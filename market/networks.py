"""Chains by name: what a command must know of one before it spends anything there. The data is networks.toml.

A user adds chains of his own in $ASSAY_HOME/networks.toml, in the same form. None of ours can be redefined there: what
is money stays money.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from market.chain import DEVELOPMENT_CHAIN_IDS
from market.config import wrong_setting
from market.errors import ConfigError

FILE_NAME = "networks.toml"
UNKNOWN_BIAS = "Nothing is known of this chain: count on whoever makes its blocks to steer every draw."


class Kind(enum.StrEnum):
    """Whether anything of value is on a chain."""

    DEVELOPMENT = "development"
    TEST = "test"
    MAIN = "main"
    UNKNOWN = "unknown"


class Randomness(BaseModel):
    """Where the contracts take random numbers on a chain, and in one sentence who can bend them how far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    bias: str


class Network(BaseModel):
    """One chain.

    Attributes:
        coin: symbol of what gas is paid in (18 decimals).
        block_time_ms: milliseconds between blocks that the chain aims at; 0 where blocks come with transactions.
        confirmations: blocks on top of a transaction before we rely on it.
        finality: seconds until its operators call a block final; `finality_note` says what stands behind that.
        l1_fee: whether a fee for data on the parent chain comes on top of the price of gas.
        censorship_budget: seconds for which somebody may keep a party's transactions out, and still nobody loses a
            dispute by silence (market.reply_window).
        rpc_variable: environment variable whose value is the RPC URL unless --rpc is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    chain_id: int = Field(gt=0)
    kind: Kind
    coin: str = Field(min_length=1, max_length=12)
    block_time_ms: int = Field(ge=0)
    confirmations: int = Field(ge=0, le=10_000)
    finality: int = Field(ge=0)
    finality_note: str = ""
    l1_fee: bool = False
    censorship_budget: int = Field(default=3_000, ge=0)
    rpc_variable: str = "ASSAY_RPC"
    randomness: str = "blockhash"
    bias: str = UNKNOWN_BIAS

    @property
    def takes_test_token(self) -> bool:
        """Whether the worthless token may be deployed here."""
        return self.kind in (Kind.DEVELOPMENT, Kind.TEST)

    @property
    def random(self) -> Randomness:
        """What a manifest declares."""
        return Randomness(source=self.randomness, bias=self.bias)


class Networks:
    """The shipped chains and the user's.

    Args:
        own: the user's file; it need not be there.

    Raises:
        ConfigError: it is malformed, or redefines one of ours.
    """

    def __init__(self, own: Path | None = None) -> None:
        self._all = dict(shipped())
        for network in _read(own).values() if own is not None else ():
            for ours in shipped().values():
                if network.name == ours.name or network.chain_id == ours.chain_id:
                    raise ConfigError(
                        f"{own} redefines {ours.name} (chain {ours.chain_id}), which Assay knows already.",
                        hint="Nothing was sent. Remove that entry.",
                        code="NetworkRedefined",
                        network=ours.name,
                    )
            self._all[network.name] = network

    def __iter__(self) -> Iterator[Network]:
        return iter(self._all.values())

    def named(self, name: str) -> Network:
        """
        Raises:
            ConfigError: code UnknownNetwork.
        """
        if name not in self._all:
            raise ConfigError(
                f"There is no network called “{name[:60]}”; known are {', '.join(self._all)}.",
                hint="Nothing was sent. Your own go into networks.toml in the folder of ASSAY_HOME.",
                code="UnknownNetwork",
                network=name,
            )
        return self._all[name]

    def of(self, chain_id: int) -> Network:
        """The chain with this id; one of kind UNKNOWN, on which nothing is taken for granted, where nobody knows it."""
        for network in self._all.values():
            if network.chain_id == chain_id:
                return network
        if chain_id in DEVELOPMENT_CHAIN_IDS:
            return self._all["local"]
        return Network(
            name=f"chain-{chain_id}",
            chain_id=chain_id,
            kind=Kind.UNKNOWN,
            coin="coin",
            block_time_ms=12_000,
            confirmations=12,
            finality=960,
            finality_note="unknown chain: the slowest of ours is assumed",
        )


@cache
def shipped() -> Mapping[str, Network]:
    """Name → chain, of this installation, in the file's order."""
    return _parse(resources.files("market").joinpath(FILE_NAME).read_text(encoding="utf-8"))


def _read(path: Path) -> Mapping[str, Network]:
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        reason = ": ".join(wrong_setting(error))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        reason = str(error)
    raise ConfigError(
        f"The networks in {path} cannot be used: {reason}.",
        hint="Nothing was sent. `assay chain networks --help` shows an entry.",
        code="BadNetworks",
        path=str(path),
    )


def _parse(text: str) -> Mapping[str, Network]:
    return {name: Network(name=name, **entry) for name, entry in tomllib.loads(text).items()}
