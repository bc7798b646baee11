"""How each RPC endpoint stands at one moment, for people: reachable, on which chain, how far behind the others."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from market.errors import ChainUnreachable
from market.rpc_endpoints import LAG_BLOCKS, Endpoint, Transient

SECONDS = 3.0
"""For one question to one endpoint."""


@dataclass(frozen=True)
class EndpointState:
    """One endpoint. Never shows more of its URL than the origin: access keys ride in the rest.

    Attributes:
        chain_id, head: what it said, None where it said nothing.
        lag: blocks behind the best endpoint of the same chain.
        trouble: what is wrong with it in words, "" where nothing is.
    """

    origin: str
    reachable: bool
    chain_id: int | None
    head: int | None
    lag: int | None
    trouble: str

    @property
    def ok(self) -> bool:
        return not self.trouble


def survey(urls: Sequence[str], *, chain_id: int | None, timeout: float = SECONDS) -> list[EndpointState]:
    """Asks all endpoints at once, each for its chain and its head; none of them twice.

    Args:
        urls: as market.rpc_endpoints.rpc_urls gives them.
        chain_id: of the chain they are meant to serve; None = what the first that answers serves.
    """
    if not urls:
        return []
    with ThreadPoolExecutor(len(urls)) as pool:
        answers = list(pool.map(lambda url: _ask(Endpoint(url, timeout)), urls))
    expected = chain_id if chain_id is not None else next((a.chain_id for a in answers if a.chain_id is not None), None)
    heads = [answer.head for answer in answers if answer.head is not None and answer.chain_id == expected]
    return [_judged(answer, expected, max(heads, default=0)) for answer in answers]


def _ask(endpoint: Endpoint) -> EndpointState:
    chain_id = None
    try:
        chain_id = endpoint.number("eth_chainId")
        return EndpointState(endpoint.origin, True, chain_id, endpoint.number("eth_blockNumber"), None, "")
    except (Transient, ChainUnreachable) as failure:
        said = f"no answer ({failure})" if isinstance(failure, Transient) else failure.message
        return EndpointState(endpoint.origin, False, chain_id, None, None, said)


def _judged(answer: EndpointState, expected: int | None, best: int) -> EndpointState:
    if answer.head is None:
        return answer
    if answer.chain_id != expected:
        trouble, lag = f"it serves chain {answer.chain_id}, not chain {expected}", None
    else:
        lag = best - answer.head
        trouble = f"it is {lag} blocks behind another" if lag > LAG_BLOCKS else ""
    return EndpointState(answer.origin, answer.reachable, answer.chain_id, answer.head, lag, trouble)
