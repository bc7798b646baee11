"""The commented file that `assay provider init` writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from market.errors import ConfigError
from market.files import write_atomically
from provider.config import Prices, ProviderConfig, Terms

_TEMPLATE = """\
# Configuration of one Assay provider. Amounts are integers in base units of the payment token (a token with 6
# decimals: 1000000 = one token); amounts above 2^63 are written as strings of digits. Times are seconds.
# Relative paths start at the folder of this file. Unknown keys are refused.

# --- chain
# Several endpoints, in order of preference: ["https://one", "https://two"]. The next takes over when one fails.
rpc_url = {rpc_url}
{ws_line}
# Manifest of the contracts. Their code is checked against it at every start.
deployment = {deployment}
# Blocks on top of a job before this provider believes it, and on top of its last commitment before it reveals. 0 only
# where blocks are never taken back, such as a development chain: a commitment that a reorganisation takes back after
# the reveal can be made anew by whoever copies the answer. Where money is real, set 1 or more.
confirmations = {confirmations}

# --- identity and storage
# The encrypted key. Its password is asked for, or comes from ASSAY_PASSWORD or --password-file.
keystore = {keystore}
# Journal (answers and salts of open jobs: never delete it while a bond is locked) and transaction queue.
data_dir = {data_dir}

# --- server
host = {host}
# 0 = any free port.
port = {port}
{endpoint_line}
# Region or privacy class, announced on chain (up to 31 characters).
label = {label}

# json: one object a line; console: for reading at a terminal.
# log = "json"

# --- models
# Folders of model packs; each is checked file by file at start.
packs = {packs}
# Ways to verify that are offered: quorum, none, optimistic (paid once nobody has proved the answer wrong; public).
modes = {modes}
# How tokens may be chosen: greedy; temperature, top-k and top-p with a seed in the request (seeded_by_request), or one
# that the chain gives once the job is posted (seeded_by_chain).
samplers = {samplers}
# cpu, cuda or cuda:<n>. The path for cuda needs torch and was never run on a GPU: the self-test at start decides.
device = {device}
# What computes on the cpu: avx512vnni, avx2, portable, torch, numpy; auto is the first that this machine runs exactly.
# kernels = "auto"
{threads_line}

# --- stake
# `assay provider run` deposits and stakes from the wallet until this much is staked. 0 = leave the stake alone.
stake = {stake}

# The contract may draw this provider for jobs at these prices and lock up to this much in each; the chance grows with
# the free stake. 0 = it works for its own quotes only.
max_bond = {max_bond}

# price = base_fee + ceil((prompt tokens * per_m_input + output tokens * per_m_output) / 1000000)
[prices]
base_fee = {base_fee}
per_m_input = {per_m_input}
per_m_output = {per_m_output}

# One model at another price, by modelId or name:
# [model_prices."0x…"]
# base_fee = 0
# per_m_input = 0
# per_m_output = 0

# Where anybody can fetch a model's pack, by modelId or name. Without it its answers are not sold as optimistic, except
# on a development chain: who cannot get the weights cannot judge an answer.
# [model_uris]
# "smollm2-135m-instruct" = "https://…"

[terms]
# Stake locked for a job, at least; the contract's own rule (a refund and the challenger's share fit in) raises it.
bond = {bond}
# Of the price: what a cancelled job or a late, agreed answer pays (1000 = 10 %).
kill_fee_bps = {kill_fee_bps}
# Of the price: what silence after a commitment costs (at least 10000 = the price).
miss_fee_bps = {miss_fee_bps}
# How long a quote can be posted. It reserves no stake: only jobs do.
valid_seconds = {valid_seconds}

[gas]
# What one whole gas coin is worth in base units of the token; a job that earns less than its two transactions cost is
# refused. 0 = never refuse for gas.
token_per_coin = {token_per_coin}
# commit_gas = 160000
# reveal_gas = 130000
# With a rate, settling and releasing a bond wait while their gas costs more than they bring.
# settle_gas = 210000
# release_gas = 60000
# A draw that nobody makes is made where the job, if it is drawn, pays for it besides commit and reveal.
# draw_gas = 180000

[limits]
# max_input_tokens = 4096
# max_output_tokens = 2048
# Of one remote address. This machine's own addresses are not counted: a proxy here has to limit for itself.
# requests_per_second = 20
# request_burst = 60
# Of all addresses together, this machine's too.
# total_requests_per_second = 500
# total_request_burst = 1000
# Size of a body, and how long its head and itself may take to arrive; how long a client may leave its answer unread.
# request_bytes = 1048576
# head_seconds = 10
# body_seconds = 10
# answer_seconds = 30
# keep_alive_seconds = 30
# connections = 1024
# connections_per_address = 64
# Signed quotes that nobody has posted; beyond, those that expire first are forgotten.
# kept_quotes = 50000
# stored_requests = 1024
# stored_request_seconds = 3600
# acceptances_per_request = 8
# Jobs waiting for the engine or in it; beyond, quotes are refused. A client that has none here still gets one in.
queue = {queue}
# Of how many likeliest tokens an answer tells for each of its own, where a client asks (up to 20; 0 = never). The
# engine needs 1 to 2 ms more for each token then, and up to 0.7 MB of the journal hold what it said.
# max_log_probabilities = 20
# http_concurrency = 64
# output_seconds = 604800
# How often prompts of closed jobs and old answers are looked for and overwritten.
# purge_seconds = 60

[timing]
# Shorter reveal windows are refused: a stuck transaction must fit in.
min_reveal_window = {min_reveal_window}
# min_commit_seconds = 5
# On a development chain, which may have no blocks while nothing is sent, a reveal waits so long after the commit
# deadline; on any other chain it waits for a block after the deadline.
# reveal_margin = 5
# When nobody settles a job, this provider does after settle_grace, and collects its pay without asking.
settle_grace = {settle_grace}
# settle_stagger = 5
# release_grace = 2
# When nobody draws the providers of a job that may be this one's, this provider does after draw_grace, or up to seven
# times draw_stagger later: so no client lets a draw pass because it hopes for another.
draw_grace = {draw_grace}
# draw_stagger = 4
# poll_seconds = 1.0
# transaction_seconds = 120

# Prometheus reads GET /metrics at an address of its own: never publish it.
[metrics]
host = "127.0.0.1"
{metrics_line}
# Networks that may read; all others are refused.
# allow = ["127.0.0.0/8", "::1/128"]
"""


@dataclass(frozen=True)
class Choices:
    """What `init` was told; everything else keeps its default."""

    rpc_url: str
    deployment: str
    keystore: str
    data_dir: str
    packs: Sequence[str]
    ws_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8_700
    endpoint: str | None = None
    label: str = ""
    modes: Sequence[str] = ("quorum", "none")
    samplers: Sequence[str] = ("greedy", "seeded_by_request", "seeded_by_chain")
    device: str = "cpu"
    threads: int | None = None
    confirmations: int = 0
    stake: int = 0
    max_bond: int = 0
    prices: Prices = field(default_factory=Prices)
    terms: Terms = field(default_factory=Terms)
    token_per_coin: int = 0
    min_reveal_window: int = 30
    settle_grace: int = 15
    draw_grace: int = 20
    queue: int = 8
    metrics_port: int | None = None


def render(choices: Choices) -> str:
    """The file's text. Strings are written as JSON strings, which TOML reads the same."""
    return _TEMPLATE.format(
        rpc_url=json.dumps(choices.rpc_url),
        ws_line=_optional(
            "ws_url", choices.ws_url, "New blocks wake the agent over this; without it, it looks every poll_seconds."
        ),
        deployment=json.dumps(choices.deployment),
        confirmations=choices.confirmations,
        keystore=json.dumps(choices.keystore),
        data_dir=json.dumps(choices.data_dir),
        host=json.dumps(choices.host),
        port=choices.port,
        endpoint_line=_optional(
            "endpoint", choices.endpoint, "Public URL, announced on chain. Left out: http://host:port."
        ),
        label=json.dumps(choices.label),
        packs=json.dumps(list(choices.packs)),
        modes=json.dumps(list(choices.modes)),
        samplers=json.dumps(list(choices.samplers)),
        device=json.dumps(choices.device),
        threads_line=_optional("threads", choices.threads, "CPU threads. Left out: what the engine finds best."),
        stake=_amount(choices.stake),
        max_bond=_amount(choices.max_bond),
        base_fee=_amount(choices.prices.base_fee),
        per_m_input=_amount(choices.prices.per_m_input),
        per_m_output=_amount(choices.prices.per_m_output),
        bond=_amount(choices.terms.bond),
        kill_fee_bps=choices.terms.kill_fee_bps,
        miss_fee_bps=choices.terms.miss_fee_bps,
        valid_seconds=choices.terms.valid_seconds,
        token_per_coin=_amount(choices.token_per_coin),
        min_reveal_window=choices.min_reveal_window,
        settle_grace=choices.settle_grace,
        draw_grace=choices.draw_grace,
        queue=choices.queue,
        metrics_line=_optional("port", choices.metrics_port, "0 = any free port. Left out: no metrics."),
    )


def check(path: Path, choices: Choices) -> ProviderConfig:
    """What the file at `path` would mean; nothing is written.

    Raises:
        ConfigError: the path exists, or a choice is wrong.
    """
    if path.exists():
        raise _exists(path)
    return ProviderConfig.of(tomllib.loads(render(choices)), path)


def write(path: Path, choices: Choices) -> ProviderConfig:
    """Writes a new file (mode 0600) and reads it back.

    Raises:
        ConfigError: the path exists (it is left as it is), cannot be written, or a choice is wrong.
    """
    config = check(path, choices)
    try:
        write_atomically(path, render(choices).encode(), mode=0o600, overwrite=False)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", path=str(path)) from None
    return config


def _exists(path: Path) -> ConfigError:
    return ConfigError(f"{path} exists and was left as it is.", hint="Name another file with --config.", path=str(path))


def _amount(value: int) -> str:
    return str(value) if value < 2**63 else f'"{value}"'


def _optional(key: str, value: str | int | None, comment: str) -> str:
    shown = f"# {key} = …" if value is None else f"{key} = {json.dumps(value)}"
    return f"# {comment}\n{shown}"
