"""The agent's configuration: one TOML file, every field with its unit and its default.

Amounts are integers in base units of the payment token (numbers, or strings of digits where TOML's 64 bits end), times
are seconds. Relative paths are relative to the folder of the file. Unknown keys are refused. Only the file counts: a
stray environment variable never changes a price.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from market.api import BODY_LIMIT
from market.config import wrong_setting
from market.errors import ConfigError
from market.inference.log_probabilities import TOP_LIMIT
from market.types import Mode, Sampler

BUILT_MODES = (Mode.NONE, Mode.QUORUM, Mode.OPTIMISTIC)
BUILT_SAMPLERS = (Sampler.GREEDY, Sampler.SEEDED_BY_REQUEST, Sampler.SEEDED_BY_CHAIN)
_MOST = 2**96  # so that no price, fee or bond made of it leaves uint128


def _digits(value: Any) -> Any:
    """Strings of digits become integers; anything else is left to pydantic's strict check."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,39}", value.replace("_", "")):
        return int(value.replace("_", ""))
    return value


Amount = Annotated[int, BeforeValidator(_digits), Field(strict=True, ge=0, le=_MOST)]
Seconds = Annotated[int, Field(strict=True, ge=0, le=10**9)]
Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Uri = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[a-z][a-z0-9+.-]*:\S+$")]
BasisPoints = Annotated[int, Field(strict=True, ge=0, le=10_000)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prices(Section):
    """What one job costs: base_fee + ceil((in · per_m_input + out · per_m_output) / 1,000,000)."""

    base_fee: Amount = 0
    per_m_input: Amount = 0  # per million prompt tokens
    per_m_output: Amount = 0  # per million output tokens


class Terms(Section):
    """What stands beside the price in every quote."""

    bond: Amount = 0  # least bond of a job; raised to what the contract demands
    kill_fee_bps: BasisPoints = 1_000  # of the price: paid for a cancelled job and for a late but agreed answer
    miss_fee_bps: Annotated[int, Field(strict=True, ge=10_000, le=1_000_000)] = 10_000  # of the price: cost of silence
    valid_seconds: Annotated[int, Field(strict=True, ge=5, le=3600)] = 60  # to post a quote in; it reserves nothing


class Gas(Section):
    """Refusing what costs more gas than it earns. Off while token_per_coin is 0."""

    token_per_coin: Amount = 0  # base units of the token that one whole gas coin (10^18 wei) is worth
    commit_gas: Count = 160_000
    reveal_gas: Count = 130_000
    settle_gas: Count = 210_000  # settling and releasing wait while they cost more than they bring
    release_gas: Count = 60_000
    seed_gas: Count = 60_000  # storing the seed that the chain gives, alone; within a commit it is less
    draw_gas: Count = 180_000  # a draw that nobody makes; made where the job pays for it, too


class Limits(Section):
    """Every resource that somebody else can use up."""

    max_input_tokens: Count = 4_096
    max_output_tokens: Count = 2_048
    kept_quotes: Count = 50_000  # signed and not posted yet; beyond, those that expire first are forgotten
    requests_per_second: Count = 20  # of one remote address (IPv6: of one /64), in the long run; loopback is exempt
    request_burst: Count = 60  # of one remote address at once
    total_requests_per_second: Count = 500  # of all addresses together, loopback too: each may cost a synced write
    total_request_burst: Count = 1_000  # of all addresses together at once
    request_bytes: Annotated[int, Field(strict=True, ge=1_024, le=BODY_LIMIT)] = BODY_LIMIT  # one body; 4 per prompt id
    head_seconds: Count = 10  # for the lines before the body to arrive: an idle connection costs a descriptor
    body_seconds: Count = 10  # for the whole body to arrive
    answer_seconds: Count = 30  # in which a client that does not read its answer must take some of it
    keep_alive_seconds: Count = 30  # between two requests of one connection
    connections: Count = 1_024  # open at once; beyond, requests are answered 503
    connections_per_address: Count = 64  # beyond, closed at once; loopback is exempt
    stored_requests: Count = 1_024
    stored_request_seconds: Seconds = 3_600  # a request nobody posted a job for is forgotten
    acceptances_per_request: Count = 8
    queue: Count = 8  # jobs waiting for the engine or in it; one more of each client that has none, up to twice as many
    max_log_probabilities: Annotated[int, Field(strict=True, ge=0, le=TOP_LIMIT)] = (
        TOP_LIMIT  # told of a token; 0: none
    )
    http_concurrency: Count = 64  # requests answered at once, of all addresses together
    output_seconds: Seconds = 7 * 86_400  # how long a settled output can be fetched
    purge_seconds: Count = 60  # between looks for prompts and answers nobody can need any more, which are overwritten


class Metrics(Section):
    """Where Prometheus reads. A listener of its own: behind a proxy, strangers come from a neighbour's address."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65_535)] | None = None  # 0 = any free one, None = no metrics
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")  # networks that may read; all others get 403

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)  # a ValueError says what is wrong
        return value


class Timing(Section):
    """Windows a job must leave, and when the agent acts on its own."""

    min_reveal_window: Seconds = 30
    min_commit_seconds: Seconds = 5  # left to the commit deadline when inference would start
    reveal_margin: Seconds = 5  # after the commit deadline by the clock; development chains only, others need a block
    settle_grace: Seconds = 15  # after a job could be settled and nobody did, this provider pays for it
    settle_stagger: Seconds = 5  # more for each replica before this one in the job
    release_grace: Seconds = 2  # after a bond came free
    draw_grace: Seconds = 20  # after a job was posted whose draw nobody makes, this provider pays for it
    draw_stagger: Seconds = 4  # more for each of eight groups that providers fall into by chance
    poll_seconds: Annotated[float, Field(ge=0.05, le=60)] = 1.0  # between looks at the chain
    transaction_seconds: Count = 120  # one wait for a receipt


class ProviderConfig(Section):
    """Everything `assay provider run` needs to know; see `assay provider init` for a commented file."""

    rpc_url: str  # several, in order of preference: with commas between them, or a list
    ws_url: str | None = None  # None: wake up every poll_seconds
    deployment: Path  # manifest of the contracts
    keystore: Path
    data_dir: Path
    host: str = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=0, le=65_535)] = 8_700  # 0 = any free one
    endpoint: str | None = None  # public URL announced on chain; None: http://host:port
    label: Annotated[str, Field(max_length=31)] = ""  # region or privacy class, announced on chain
    packs: Annotated[tuple[Path, ...], Field(min_length=1)]
    modes: tuple[str, ...] = ("quorum", "none")
    samplers: tuple[str, ...] = ("greedy", "seeded_by_request", "seeded_by_chain")  # other requests are refused
    device: str = "cpu"
    kernels: Literal["auto", "avx512vnni", "avx2", "portable", "torch", "numpy"] = "auto"  # of the cpu
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None  # None: what the engine finds best
    confirmations: Annotated[int, Field(strict=True, ge=0, le=1000)] = 0  # blocks on top before it is believed
    stake: Amount = 0  # target: `run` deposits and stakes up to it from the wallet; 0 = leave the stake alone
    max_bond: Amount = 0  # most locked in a job that the contract draws this provider for; 0 = it works for quotes only
    prices: Prices = Prices()
    model_prices: dict[str, Prices] = Field(default_factory=dict)  # by modelId (0x…) or model name
    model_uris: dict[str, Uri] = Field(default_factory=dict)  # where its pack can be fetched; by modelId or model name
    terms: Terms = Terms()
    gas: Gas = Gas()
    limits: Limits = Limits()
    timing: Timing = Timing()
    metrics: Metrics = Metrics()
    log: Literal["json", "console"] = "json"  # console: for reading at a terminal

    @field_validator("rpc_url", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        return ",".join(map(str, value)) if isinstance(value, list) else value

    @field_validator("rpc_url", "ws_url", "endpoint")
    @classmethod
    def _url(cls, value: str | None, info: Any) -> str | None:
        schemes = {"ws_url": ("ws", "wss")}.get(info.field_name, ("http", "https"))
        if value is None:
            return None
        urls = [url.strip() for url in value.split(",")] if info.field_name == "rpc_url" else [value]
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in schemes or not parts.hostname:
                raise ValueError(f"must be a URL that starts with {' or '.join(schemes)}://")
        return ",".join(url.rstrip("/") for url in urls)

    @field_validator("modes")
    @classmethod
    def _modes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        built = {mode.name.lower() for mode in BUILT_MODES}
        odd = sorted(set(value) - built)
        if odd or not value:
            raise ValueError(f"must be some of {', '.join(sorted(built))}")
        return value

    @field_validator("samplers")
    @classmethod
    def _samplers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        built = [sampler.name.lower() for sampler in BUILT_SAMPLERS]
        if set(value) - set(built) or not value:
            raise ValueError(f"must be some of {', '.join(built)}")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.endpoint is None and self.host in ("0.0.0.0", "::", ""):  # noqa: S104 - refused, not used
            raise ValueError("endpoint must be set when host is a wildcard address: nobody can call that")
        return self

    @property
    def offered_modes(self) -> tuple[Mode, ...]:
        return tuple(mode for mode in BUILT_MODES if mode.name.lower() in self.modes)

    @property
    def offered_samplers(self) -> tuple[Sampler, ...]:
        return tuple(sampler for sampler in BUILT_SAMPLERS if sampler.name.lower() in self.samplers)

    def prices_of(self, model_id: bytes, name: str) -> Prices:
        """The prices of one model: by its id, else by its name, else the general ones."""
        by_id = {key.lower(): prices for key, prices in self.model_prices.items()}
        return by_id.get("0x" + model_id.hex()) or self.model_prices.get(name) or self.prices

    def uri_of(self, model_id: bytes, name: str) -> str:
        """Where anybody can fetch a model's pack: by its id, else by its name; "" where nobody was told."""
        by_id = {key.lower(): uri for key, uri in self.model_uris.items()}
        return by_id.get("0x" + model_id.hex()) or self.model_uris.get(name) or ""

    @property
    def journal_path(self) -> Path:
        return self.data_dir / "journal.sqlite"

    @property
    def instructions_path(self) -> Path:
        return self.data_dir / "instructions.sqlite"

    @classmethod
    def load(cls, path: Path) -> ProviderConfig:
        """Reads the file.

        Raises:
            ConfigError: it is missing, no TOML, or a field is wrong; the message names the field.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"There is no configuration at {path}.", hint="Write one: assay provider init.", path=str(path)
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"The configuration {path} cannot be read: {error}.", path=str(path)) from None
        return cls.of(data, path)

    @classmethod
    def of(cls, data: dict[str, Any], path: Path) -> ProviderConfig:
        """Checks parsed TOML; `path` is where it stands, for relative paths and messages."""
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            field, reason = wrong_setting(error)
            raise ConfigError(
                f"{path}: {field or 'the file'}: {reason}. Nothing was started.",
                hint="See `assay provider init --help` and the comments in the file.",
                path=str(path),
                field=field,
            ) from None
        folder = path.resolve().parent
        return config.model_copy(
            update={
                "deployment": folder / config.deployment.expanduser(),
                "keystore": folder / config.keystore.expanduser(),
                "data_dir": folder / config.data_dir.expanduser(),
                "packs": tuple(folder / pack.expanduser() for pack in config.packs),
            }
        )
