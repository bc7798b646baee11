"""Deployed contracts with actors who have money, and a job in as few words as a test needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount

from market.artefacts import LIBRARIES
from market.hashing import ZERO32, keccak256, pack_stop_tokens, tokens_root
from market.settlement import BURNT_ADDRESS, Terms
from market.signing import Domain, sign
from market.types import ZERO_ADDRESS, Commitment, Mode, Output, Quote, Request
from tests.unit.contracts.abi import START, Chain, Contract, Event
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.revm import RevmChain
from tools.compiler import Artefact

DAY = 86_400
DISPUTE_WINDOW = DAY
DISPUTE_DEADLINE = 7 * DAY
DEMAND_WINDOW = 3_600
DEMAND_FEE = 700
UNBONDING_WINDOW = 2 * DAY + 2 * DISPUTE_WINDOW + DEMAND_WINDOW + DISPUTE_DEADLINE
SHARE_BPS = 2_000
CAP = 10**15
MONEY = 10**9
STAKE = 5 * 10**8
STAKE_CAP = 4 * 10**8
COMMIT_WINDOW = 60
REVEAL_WINDOW = 90
PROVIDERS = 7
INPUT = [1, 2, 3]
_PERMIT_TYPE = keccak256(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")
MAX_OUTPUT = 16
MODEL_ID = keccak256(b"model")


def account(label: str) -> LocalAccount:
    """An account whose key is the hash of its label."""
    made: LocalAccount = Account.from_key(keccak256(label.encode()))
    return made


DEPLOYER = account("deployer")
GUARDIAN = account("guardian")
CLIENT = account("client")
OTHER_CLIENT = account("other client")
STRANGER = account("stranger")
REPLICAS = tuple(account(f"provider {i}") for i in range(PROVIDERS))


def request(**changes: Any) -> Request:
    """A greedy request for MODEL_ID with INPUT as its ids."""
    plain = Request(
        model_id=MODEL_ID,
        input_root=tokens_root(INPUT),
        input_tokens=len(INPUT),
        max_output_tokens=MAX_OUTPUT,
        stop_tokens=pack_stop_tokens([2]),
        sampler=0,
        temperature_q16=0,
        top_k=0,
        top_p_q16=0,
        seed=ZERO32,
        nonce=keccak256(b"nonce"),
    )
    return dataclasses.replace(plain, **changes)


def answer(label: str = "right", tokens: int = 5, finish: int = 1) -> Output:
    return Output(keccak256(label.encode()), tokens, finish)


def pack_permit(values: tuple[int, int, int, bytes, bytes]) -> bytes:
    """The form in which `post` and `fund` take a permit."""
    return encode(["uint256", "uint256", "uint8", "bytes32", "bytes32"], values)


def salt_of(provider: LocalAccount) -> bytes:
    return keccak256(b"salt of " + provider.address.encode())


@dataclass(frozen=True)
class PostedJob:
    """A job on chain, and what it was posted with."""

    id: bytes
    request: Request
    quotes: tuple[Quote, ...]

    @property
    def terms(self) -> tuple[Terms, ...]:
        return tuple(Terms.of(quote) for quote in self.quotes)


class World:
    """Token, vault, registry, jobs and a toy arbiter on one chain; client and providers with credit and stake."""

    def __init__(
        self,
        compiled: Mapping[str, Artefact] | None = None,
        chain: Chain | None = None,
        hostile_tokens: Sequence[str] = (),
        token: str = "TestToken",
    ) -> None:
        """`hostile_tokens` are listed beside the stake token, whose contract is `token`."""
        self.artefacts = dict(compiled or artefacts())
        self.chain = chain or RevmChain(list(self.artefacts.values()))
        self.libraries: dict[str, str] = {}
        self.token = self.deploy(token)
        self.hostile = {name: self.deploy(name) for name in hostile_tokens}
        listed = [(token.address, CAP) for token in (self.token, *self.hostile.values())]
        self.vault = self.deploy("Vault", GUARDIAN.address, self.token.address, UNBONDING_WINDOW, listed)
        self.registry = self.deploy("Registry", self.vault.address, STAKE_CAP)
        self.arbiter = self._deploy_arbiter()
        self.libraries = {name: self.deploy(name).address for name in LIBRARIES}
        self.jobs = self.deploy("Jobs", *self.jobs_arguments())
        self.vault.seal([self.jobs.address, *self._more_modules()], sender=GUARDIAN.address)
        self.domain = Domain(self.chain.chain_id, self.jobs.address)
        self._nonce = 0
        for actor in (CLIENT, OTHER_CLIENT, STRANGER, *REPLICAS):
            self.token.mint(actor.address, MONEY, sender=actor.address)
            self.token.approve(self.vault.address, MONEY, sender=actor.address)
        for provider in REPLICAS:
            self.vault.deposit(self.token.address, provider.address, STAKE, sender=provider.address)
            self.vault.stake(STAKE, sender=provider.address)

    def _deploy_arbiter(self) -> Contract:
        return self.deploy("ToyArbiter")

    def _more_modules(self) -> list[str]:
        return []

    def restart_nonces(self) -> None:
        """Makes the next quotes the same ones as after deployment."""
        self._nonce = 0

    def deploy(self, name: str, *arguments: Any) -> Contract:
        return self.chain.deploy(self.artefacts[name], *arguments, sender=DEPLOYER.address, libraries=self.libraries)

    def jobs_arguments(self, **changes: Any) -> tuple[Any, ...]:
        """What the constructor of Jobs takes, by its parameters' names."""
        values = {
            "vault": self.vault.address,
            "registry": self.registry.address,
            "arbiter": self.arbiter.address,
            "disputeWindow": DISPUTE_WINDOW,
            "challengerShareBps": SHARE_BPS,
            "demandWindow": DEMAND_WINDOW,
            "demandFee": DEMAND_FEE,
        }
        assert values.keys() >= changes.keys()
        return tuple((values | changes).values())

    # --- reading

    def credit(self, owner: LocalAccount | str) -> int:
        address = owner if isinstance(owner, str) else owner.address
        return int(self.vault.credit(self.token.address, address))

    def burnt(self) -> int:
        return self.credit(BURNT_ADDRESS)

    def staked(self, owner: LocalAccount) -> int:
        return int(self.vault.staked(owner.address))

    def held(self) -> int:
        return int(self.vault.held(self.jobs.address, self.token.address))

    def job(self, job: PostedJob) -> dict[str, Any]:
        found: dict[str, Any] = self.jobs.job(job.id)
        return found

    def replica(self, job: PostedJob, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.jobs.replicas(job.id)[index]
        return found

    def logs(self, name: str) -> list[Event]:
        """Events of that name in the last transaction."""
        return [event for event in self.chain.logs if event.name == name]

    # --- a permit

    def permit(
        self, owner: LocalAccount, spender: str, value: int, deadline: int | None = None
    ) -> tuple[int, int, int, bytes, bytes]:
        """ERC-2612: (value, deadline, v, r, s) of the owner's permit of the token."""
        until = self.chain.now + 60 if deadline is None else deadline
        nonce = self.token.nonces(owner.address)
        struct = keccak256(
            encode(
                ["bytes32", "address", "address", "uint256", "uint256", "uint256"],
                [_PERMIT_TYPE, owner.address, spender, value, nonce, until],
            )
        )
        digest = keccak256(b"\x19\x01" + self.token.DOMAIN_SEPARATOR() + struct)
        signature = owner.unsafe_sign_hash(digest)
        return value, until, signature.v, signature.r.to_bytes(32), signature.s.to_bytes(32)

    # --- a job

    def quote(self, provider: LocalAccount, /, **changes: Any) -> Quote:
        """A quote for anybody and any request of MODEL_ID. Its nonce is fresh."""
        self._nonce += 1
        plain = Quote(
            provider=provider.address,
            client=ZERO_ADDRESS,
            model_id=MODEL_ID,
            request_hash=ZERO32,
            mode=Mode.QUORUM,
            token=self.token.address,
            base_fee=1_000,
            price_per_m_input=500_000,
            price_per_m_output=2_000_001,
            kill_fee=100,
            miss_fee=3_000,
            bond=10_000,
            max_input_tokens=1_024,
            max_output_tokens=256,
            valid_until=START + 100 * DAY,
            nonce=self._nonce,
        )
        return dataclasses.replace(plain, **changes)

    def signed(self, quote: Quote, signer: LocalAccount | None = None) -> tuple[tuple[Any, ...], bytes]:
        """SignedQuote; by its provider, where that is one of ours, unless another signer is named."""
        if quote.provider == ZERO_ADDRESS and signer is None:
            return quote.values(), b""
        if signer is None:
            signer = next(p for p in (*REPLICAS, CLIENT, OTHER_CLIENT) if p.address == quote.provider)
        return quote.values(), sign(self.domain, quote, signer)

    def params(
        self,
        quotes: Sequence[Any] | None = None,
        *,
        mode: int = Mode.QUORUM,
        quorum: int = 2,
        max_escrow: int = 10**8,
        commit_window: int = COMMIT_WINDOW,
        reveal_window: int = REVEAL_WINDOW,
        asked: Request | None = None,
        permit: bytes = b"",
        inline: bytes = b"",
        draw: int = 0,
    ) -> tuple[Any, ...]:
        """JobParams; quotes are `Quote` (signed here) or already signed."""
        offered = [self.quote(p) for p in REPLICAS[:3]] if quotes is None else quotes
        signed = [self.signed(q) if isinstance(q, Quote) else q for q in offered]
        values = (asked or request()).values()
        return (mode, quorum, max_escrow, commit_window, reveal_window, values, signed, permit, inline, draw)

    def post(
        self,
        replicas: int = 3,
        *,
        client: LocalAccount = CLIENT,
        terms: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> PostedJob:
        """Posts a job with the first `replicas` providers."""
        quotes = [self.quote(p, **(terms or {})) for p in REPLICAS[:replicas]]
        asked = changes.pop("asked", None) or request()
        identity = self.jobs.post(self.params(quotes, asked=asked, **changes), sender=client.address)
        return PostedJob(identity, asked, tuple(quotes))

    def commitment(self, job: PostedJob, provider: LocalAccount, output: Output) -> bytes:
        value = Commitment(job.id, provider.address, output.output_hash, salt_of(provider))
        return self.domain.digest(value)

    def commit(self, job: PostedJob, *answers: tuple[LocalAccount, Output]) -> None:
        for provider, output in answers:
            self.jobs.commit(job.id, self.commitment(job, provider, output), sender=provider.address)

    def reveal(self, job: PostedJob, *answers: tuple[LocalAccount, Output]) -> None:
        for provider, output in answers:
            self.jobs.reveal(job.id, output.values(), salt_of(provider), sender=provider.address)

    def settle(self, job: PostedJob, sender: LocalAccount = STRANGER) -> None:
        self.jobs.settle(job.id, sender=sender.address)

    def settled(self, *outputs: Output) -> PostedJob:
        """A job that as many providers as outputs committed to, revealed and settled."""
        job = self.post(len(outputs))
        answers = list(zip(REPLICAS, outputs, strict=False))
        self.commit(job, *answers)
        self.reveal(job, *answers)
        self.settle(job)
        return job

    def cost_of_demand(self, job: PostedJob, provider: str) -> tuple[int, int]:
        """Fee and price."""
        fee, price = self.jobs.demandCostOf(job.id, provider)
        return fee, price

    def warp(self, seconds: int) -> None:
        self.chain.now += seconds
