"""Serving proof jobs: quotes, inputs that are not for everybody's eyes, and one job after the other proved and settled.

Everything that counts stands on chain: a job that names this provider, its deadline, its input where it is public. So
there is no journal: after a restart the chain is read again, and what is still open is proved. A private input that was
delivered before the restart is gone; its job expires, which costs nobody anything.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from eth_account.signers.local import LocalAccount

from market.chain import Chain, same_address
from market.deployment import Contracts, Deployment
from market.errors import AssayError, ChainError, ContractError
from market.events import Event, Follower, MemoryCursor, struct_of
from market.hashing import unpack_tokens
from market.proof_contracts import ProofJobView
from market.proofs.artefact import ProofArtefact
from market.proofs.backend import InputForm, Proof, ProvingBackend
from market.signing import sign
from market.transactions import Transactions
from market.types import ZERO_ADDRESS, Mode, Quote, Request
from market.views import ProofJobState
from provider.config import Prices
from provider.errors import Refusal

log = structlog.get_logger(__name__)

HELD_INPUTS = 256
"""Private inputs that are kept for jobs to come; the oldest goes first."""


@dataclass(frozen=True)
class PrivateInput:
    """What a client delivers for a job whose input is hashed on chain."""

    ids: tuple[int, ...]
    blinding: int


@dataclass
class _Task:
    job_id: bytes
    block: int
    request: Request | None = None
    ids: tuple[int, ...] = ()
    proof: Proof | None = None  # made, and not yet on chain
    done: bool = False


@dataclass(frozen=True)
class ProofShop:
    """What is sold: artefacts by model id, one price for all, and how long a quote binds (seconds)."""

    artefacts: Mapping[bytes, ProofArtefact]
    prices: Prices
    valid_seconds: int = 60


@dataclass
class Inputs:
    """Private inputs by request hash. Thread-safe."""

    _held: dict[bytes, PrivateInput] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, request_hash: bytes, given: PrivateInput) -> None:
        with self._lock:
            if len(self._held) >= HELD_INPUTS:
                self._held.pop(next(iter(self._held)))
            self._held[request_hash] = given

    def get(self, request_hash: bytes) -> PrivateInput | None:
        with self._lock:
            return self._held.get(request_hash)


class ProofDesk:
    """What a client can ask: a quote, and that a private input is kept. Thread-safe."""

    def __init__(
        self,
        contracts: Contracts,
        account: LocalAccount,
        shop: ProofShop,
        backend: ProvingBackend,
        inputs: Inputs,
        now: Callable[[], int],
    ) -> None:
        self._token = contracts.token.address
        self._domain = contracts.proofs.domain
        self._account = account
        self.shop = shop
        self._backend = backend
        self._inputs = inputs
        self._now = now

    def quote(self, client: str, mode: int, request: Request | None, model_id: bytes) -> tuple[Quote, bytes]:
        """A signed quote of mode PROOF.

        Raises:
            Refusal: MODE_NOT_OFFERED, UnknownModel, ShapeMismatch.
        """
        if mode != Mode.PROOF:
            raise Refusal("MODE_NOT_OFFERED", f"This provider sells proofs (mode {int(Mode.PROOF)}), not mode {mode}.")
        artefact = self._artefact(model_id if request is None else request.model_id)
        if request is not None:
            self._check_shape(artefact, request)
        prices = self.shop.prices
        quote = Quote(
            provider=self._account.address,
            client=client or ZERO_ADDRESS,
            model_id=artefact.model_id,
            request_hash=bytes(32) if request is None else request.request_hash,
            mode=int(Mode.PROOF),
            token=self._token,
            base_fee=prices.base_fee,
            price_per_m_input=prices.per_m_input,
            price_per_m_output=prices.per_m_output,
            kill_fee=0,
            miss_fee=0,
            bond=0,
            max_input_tokens=artefact.program.inputs,
            max_output_tokens=artefact.program.outputs,
            valid_until=self._now() + self.shop.valid_seconds,
            nonce=secrets.randbits(128),
        )
        return quote, sign(self._domain, quote, self._account)

    def accept(self, request: Request, ids: Sequence[int], blinding: int) -> None:
        """Keeps a private input until its job is proved.

        Raises:
            Refusal: UnknownModel, ShapeMismatch, HashMismatch, or NOT_PRIVATE where the input goes on chain.
        """
        artefact = self._artefact(request.model_id)
        self._check_shape(artefact, request)
        if artefact.program.form != InputForm.HASHED:
            raise Refusal("NOT_PRIVATE", "This model's inputs are public; they are posted with the job.")
        root = self._backend.input_root(artefact.folder, ids, blinding=blinding)
        if root != request.input_root:
            raise Refusal(
                "HashMismatch",
                f"The input should hash to 0x{request.input_root.hex()} but hashes to 0x{root.hex()}.",
                hint="Send exactly what the request was made of.",
            )
        self._inputs.put(request.request_hash, PrivateInput(tuple(ids), blinding))

    def _artefact(self, model_id: bytes) -> ProofArtefact:
        found = self.shop.artefacts.get(model_id)
        if found is None:
            raise Refusal("UnknownModel", f"This provider does not prove model 0x{model_id.hex()}.", status=404)
        return found

    @staticmethod
    def _check_shape(artefact: ProofArtefact, request: Request) -> None:
        shape = (artefact.program.inputs, artefact.program.outputs)
        asked = (request.input_tokens, request.max_output_tokens)
        if asked != shape:
            raise Refusal(
                "ShapeMismatch", f"The model takes {shape[0]} ids and gives {shape[1]}; the request has {asked}."
            )


class ProofAgent:
    """Follows the chain and proves what is this provider's, one job at a time.

    Args:
        now: unix seconds, as the chain has them.
    """

    def __init__(
        self,
        chain: Chain,
        deployment: Deployment,
        transactions: Transactions,
        shop: ProofShop,
        backend: ProvingBackend,
        inputs: Inputs,
        now: Callable[[], int],
        *,
        confirmations: int = 0,
    ) -> None:
        self._contracts = Contracts.of(chain, deployment)
        self._transactions = transactions
        self._shop = shop
        self._backend = backend
        self._inputs = inputs
        self._now = now
        self._follower = Follower(
            chain,
            [deployment.proofs],
            MemoryCursor(),
            start_block=deployment.block,
            confirmations=confirmations,
        )
        self._tasks: dict[bytes, _Task] = {}

    def step(self) -> int:
        """Reads what is new on chain and works on what can be done. Returns how many jobs were settled.

        Raises:
            ChainError: the chain could not be asked; nothing is lost, call again.
        """
        self._read()
        settled = 0
        for task in list(self._tasks.values()):
            if not task.done and task.request is not None:
                settled += self._work(task, task.request)
        for job_id in [job_id for job_id, task in self._tasks.items() if task.done]:
            del self._tasks[job_id]
        return settled

    def _read(self) -> None:
        mine = self._transactions.address
        for event in self._follower.poll():
            if not isinstance(event, Event):
                gone = [task.job_id for task in self._tasks.values() if task.block > event.to_block]
                for job_id in gone:  # whatever of them is on the new chain comes again
                    del self._tasks[job_id]
                continue
            if event.name == "ProofJobPosted" and same_address(event.args["provider"], mine):
                job_id = event.args["jobId"]
                self._tasks[job_id] = _Task(job_id, event.block_number)
            elif event.name == "ProofRequested" and event.args["jobId"] in self._tasks:
                task = self._tasks[event.args["jobId"]]
                task.request = struct_of(Request, event.args["request"])
                task.ids = _ids(event.args["input"], task.request.input_tokens)
        self._follower.commit()

    def _open_job(self, task: _Task) -> ProofJobView | None:
        try:
            job = self._contracts.proofs.job(task.job_id)
        except ContractError:
            return None  # a reorg took it
        return job if job.state == ProofJobState.OPEN and self._now() <= job.proof_deadline else None

    def _work(self, task: _Task, request: Request) -> int:
        artefact = self._shop.artefacts.get(request.model_id)
        job = self._open_job(task)
        if artefact is None or job is None:
            task.done = True
            return 0
        ids, blinding = task.ids, 0
        if artefact.program.form == InputForm.HASHED:
            given = self._inputs.get(request.request_hash)
            if given is None:
                return 0  # it may still be delivered
            ids, blinding = given.ids, given.blinding
        elif not ids:
            task.done = True
            log.warning("proof_input_unusable", job="0x" + task.job_id.hex())
            return 0
        task.done = True
        try:
            proof = task.proof = task.proof or self._backend.prove(artefact.folder, ids, task.job_id, blinding=blinding)
            call = self._contracts.proofs.settle(task.job_id, request, proof.ids, proof.data)
            self._transactions.send(call, key=f"prove-{task.job_id.hex()}")
        except ContractError as error:
            log.warning("proof_refused", job="0x" + task.job_id.hex(), code=error.code, error=str(error))
            return 0
        except ChainError as error:
            task.done = False  # the chain is away, not against us: the same proof is sent at the next look
            log.warning("proof_not_sent", job="0x" + task.job_id.hex(), code=error.code, error=str(error))
            return 0
        except AssayError as error:
            log.warning("proof_failed", job="0x" + task.job_id.hex(), code=error.code, error=str(error))
            return 0
        log.info("proved", job="0x" + task.job_id.hex(), seconds=round(proof.seconds, 2), paid=job.escrow)
        return 1


def _ids(packed: bytes, count: int) -> tuple[int, ...]:
    """The input as it stands on chain; none where it is private, or no list of ids (the contract takes the filler as an
    id, no model does)."""
    try:
        return tuple(unpack_tokens(packed, count)) if packed else ()
    except ValueError:
        return ()
