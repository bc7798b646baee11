"""A market on a real anvil, and what its parties do, for the tests of the chain layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eth_account.signers.local import LocalAccount

from market.anvil import Anvil
from market.chain import Chain
from market.contracts import Jobs, Registry, Token, Vault
from market.deployment import Contracts, Deployment, deploy
from market.hashing import ZERO32, pack_stop_tokens, tokens_root
from market.signing import sign
from market.transactions import Sent, Transactions
from market.types import Commitment, Mode, Model, Output, Quote, Request
from market.views import JobParams, Offer, SignedQuote, modes_mask

DEPLOYER, CLIENT, PROVIDERS = 0, 1, (2, 3, 4)
MONEY = 10**11
STAKE = 10**9
PRICE = 1_000  # of every job here: a base fee alone
BOND = 10_000
MODEL = Model(*[bytes([number]) * 32 for number in range(1, 6)])
PROMPT = [5, 6, 7]
ANSWER = [8, 9]


@dataclass(frozen=True)
class World:
    """One anvil with one deployment. Senders live for a few calls and forget: what a reorg drops stays dropped."""

    anvil: Anvil
    chain: Chain
    deployment: Deployment
    contracts: Contracts
    folder: Path

    @property
    def jobs(self) -> Jobs:
        return self.contracts.jobs

    @property
    def vault(self) -> Vault:
        return self.contracts.vault

    @property
    def token(self) -> Token:
        return self.contracts.token

    @property
    def registry(self) -> Registry:
        return self.contracts.registry

    def account(self, index: int) -> LocalAccount:
        return self.anvil.accounts[index]

    def queue(self, index: int) -> Path:
        return self.folder / f"queue-{index}.sqlite"

    def as_(self, index: int) -> Transactions:
        """A sender for a few calls; close it (or use it in a `with`)."""
        return Transactions(self.chain, self.account(index), ":memory:")

    def send(self, index: int, *calls: object) -> Sent:
        """Sends calls one after the other; returns the last one's result."""
        with self.as_(index) as transactions:
            sent = [transactions.send(call) for call in calls]  # type: ignore[arg-type]
        return sent[-1]

    def deposit(self, index: int, amount: int = MONEY) -> None:
        address = self.account(index).address
        self.send(
            index,
            self.token.mint(address, amount),
            self.token.approve(self.vault.address, amount),
            self.vault.deposit(self.token.address, address, amount),
        )

    def publish(self) -> None:
        self.send(DEPLOYER, self.registry.publish_model(MODEL, "toy", "https://example.org/toy"))

    def open_provider(self, index: int, *, endpoint: str = "", base_fee: int = PRICE) -> None:
        """Money, stake, announcement and offer of one provider."""
        self.deposit(index)
        self.send(
            index,
            self.vault.stake(STAKE),
            self.registry.set_provider(endpoint or f"http://provider-{index}.example"),
            self.registry.set_offer(MODEL.model_id, self.offer(base_fee)),
        )

    def offer(self, base_fee: int = PRICE) -> Offer:
        modes = modes_mask((Mode.NONE, Mode.QUORUM))
        return Offer(self.token.address, base_fee, 0, 0, 4096, 256, modes)

    # ------------------------------------------------------------------------------------------------------- a job

    def request(self) -> Request:
        nonce = os.urandom(32)
        return Request(
            MODEL.model_id, tokens_root(PROMPT), len(PROMPT), 16, pack_stop_tokens([9]), 0, 0, 0, 0, ZERO32, nonce
        )

    def quote(self, index: int, request: Request, **changes: object) -> SignedQuote:
        account = self.account(index)
        values: dict[str, object] = {
            "provider": account.address,
            "client": self.account(CLIENT).address,
            "model_id": request.model_id,
            "request_hash": request.request_hash,
            "mode": int(Mode.QUORUM),
            "token": self.token.address,
            "base_fee": PRICE,
            "price_per_m_input": 0,
            "price_per_m_output": 0,
            "kill_fee": 100,
            "miss_fee": PRICE,
            "bond": BOND,
            "max_input_tokens": 4096,
            "max_output_tokens": 256,
            "valid_until": self.chain.head().timestamp + 3600,
            "nonce": int.from_bytes(os.urandom(16)),
        }
        quote = Quote(**{**values, **changes})  # type: ignore[arg-type]
        return SignedQuote(quote, sign(self.jobs.domain, quote, account))

    def params(self, request: Request, quotes: Sequence[SignedQuote], permit: bytes = b"") -> JobParams:
        return JobParams(
            mode=Mode.QUORUM,
            quorum=2,
            max_escrow=MONEY,
            commit_window=60,
            reveal_window=60,
            request=request,
            quotes=tuple(quotes),
            permit=permit,
        )

    def post(self, providers: Sequence[int] = PROVIDERS) -> bytes:
        """Posts a job of the client, paid out of its credit; returns its id."""
        request = self.request()
        client = self.account(CLIENT).address
        job_id = self.jobs.job_id_of(client, self.jobs.client_nonce(client))
        quotes = [self.quote(index, request) for index in providers]
        self.send(CLIENT, self.jobs.post(self.params(request, quotes)))
        return job_id

    def output(self, ids: Sequence[int] = ANSWER) -> Output:
        return Output(tokens_root(ids), len(ids), 1)

    def commit(self, index: int, job_id: bytes, salt: bytes, output: Output | None = None) -> Sent:
        answer = output or self.output()
        commitment = Commitment(job_id, self.account(index).address, answer.output_hash, salt)
        return self.send(index, self.jobs.commit(job_id, self.jobs.domain.digest(commitment)))

    def play(self, providers: Sequence[int] = PROVIDERS, *, silent: Sequence[int] = ()) -> bytes:
        """A whole job: posted, committed, revealed (but by the silent ones), settled. Returns its id."""
        job_id = self.post(providers)
        for index in providers:
            self.commit(index, job_id, bytes([index]) * 32)
        for index in providers:
            if index not in silent:
                self.send(index, self.jobs.reveal(job_id, self.output(), bytes([index]) * 32))
        if silent:
            self.anvil.increase_time(120)
        self.send(CLIENT, self.jobs.settle(job_id))
        return job_id


def build(anvil: Anvil, folder: Path, on_step: Callable[[str, Sent], None] = lambda _name, _sent: None) -> World:
    """Deploys on a fresh anvil."""
    chain = Chain(anvil.rpc_url, expected_chain_id=anvil.chain_id)
    with Transactions(chain, anvil.accounts[DEPLOYER], folder / f"queue-{DEPLOYER}.sqlite") as transactions:
        deployment = deploy(chain, transactions, on_step=on_step)
    return World(anvil, chain, deployment, Contracts.of(chain, deployment), folder)
