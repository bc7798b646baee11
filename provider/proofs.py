"""Serving proof jobs: quotes, inputs that are not for everybody's eyes, and one job after the other proved and settled.

Everything that counts stands on chain: a job that names this provider, its deadline, its input where it is public. So
after a restart the chain is read again, as far back as an open job can lie, and what is still open is proved. Only
private inputs are kept on disk (provider.proof_inputs).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
from provider.proof_inputs import InputStore, PrivateInput

log = structlog.get_logger(__name__)

MAX_WINDOW = 86_400
"""Longest that a job can be open, seconds (ProofJobs.MAX_WINDOW)."""
HASHES_AT_ONCE, HASH_SECONDS = 2, 5.0
"""Inputs that are hashed at a time, each in a process; and how long the next one waits for its turn."""
FORGET_SECONDS = 60
SEND_SECONDS = 3
"""Left to the deadline when a proof is sent: a transaction that comes too late shows the answer and is not paid."""
TRIES = 2
"""Of a proof whose process somebody killed."""


@dataclass
class _Task:
    job_id: bytes
    block: int
    deadline: int
    request: Request | None = None
    ids: tuple[int, ...] = ()
    proof: Proof | None = None
    tries: int = 0
    done: bool = False  # until a reorg: what settled it may have fallen


@dataclass(frozen=True)
class ProofShop:
    """What is sold: artefacts by model id, one price for all, and how long a quote binds (seconds)."""

    artefacts: Mapping[bytes, ProofArtefact]
    prices: Prices
    valid_seconds: int = 60


class ProofDesk:
    """What a client can ask: a quote, and that a private input is kept. Thread-safe."""

    def __init__(
        self,
        contracts: Contracts,
        account: LocalAccount,
        shop: ProofShop,
        backend: ProvingBackend,
        inputs: InputStore,
        now: Callable[[], int],
    ) -> None:
        self._token = contracts.token.address
        self._domain = contracts.proofs.domain
        self._account = account
        self.shop = shop
        self._backend = backend
        self._inputs = inputs
        self._now = now
        self._hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)

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
        """Keeps a private input until its job is over; on disk when this returns.

        Raises:
            Refusal: UnknownModel, ShapeMismatch, HashMismatch, NOT_PRIVATE where the input goes on chain, OVERLOADED.
            JournalError: it could not be written.
        """
        artefact = self._artefact(request.model_id)
        self._check_shape(artefact, request)
        if artefact.program.form != InputForm.HASHED:
            raise Refusal("NOT_PRIVATE", "This model's inputs are public; they are posted with the job.")
        given = PrivateInput(tuple(ids), blinding)
        if self._inputs.get(request.request_hash) == given:
            return  # said once more
        root = self._root_of(artefact, given)
        if root != request.input_root:
            raise Refusal(
                "HashMismatch",
                f"The input should hash to 0x{request.input_root.hex()} but hashes to 0x{root.hex()}.",
                hint="Send exactly what the request was made of.",
            )
        self._inputs.put(request.request_hash, given, self._now())

    def _root_of(self, artefact: ProofArtefact, given: PrivateInput) -> bytes:
        if not self._hashing.acquire(timeout=HASH_SECONDS):
            raise Refusal(
                "OVERLOADED",
                f"This provider checks {HASHES_AT_ONCE} inputs at a time.",
                hint="Ask again in a moment.",
                status=429,
                retry_after=1,
            )
        try:
            return self._backend.input_root(artefact.folder, given.ids, blinding=given.blinding)
        finally:
            self._hashing.release()

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
    """Follows the chain and proves what is this provider's: the job that must be proved soonest comes first.

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
        inputs: InputStore,
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
        self._cursor = MemoryCursor()
        self._follower = Follower(
            chain,
            [deployment.proofs],
            self._cursor,
            start_block=first_block_since(chain, chain.head().timestamp - MAX_WINDOW, deployment.block),
            confirmations=confirmations,
        )
        self._tasks: dict[bytes, _Task] = {}
        self._forget_at = 0
        self._seconds: dict[bytes, float] = {}  # that the last proof of a model took

    def catch_up(self) -> None:
        """Reads all that is on chain: before the first client delivers, every open job holds its input's place.

        Raises:
            ChainError: the chain could not be asked.
        """
        while self._read():
            pass

    def step(self) -> int:
        """Reads what is new on chain and works on what can be done. Returns how many jobs were settled.

        Raises:
            ChainError: the chain could not be asked; nothing is lost, call again.
        """
        self._read()
        now = self._now()
        for late in [task for task in self._tasks.values() if now > task.deadline]:
            del self._tasks[late.job_id]
            self._inputs.release(late.job_id)
        if now >= self._forget_at:
            self._inputs.forget(now)
            self._forget_at = now + FORGET_SECONDS
        settled = 0
        for task in sorted(self._tasks.values(), key=lambda task: task.deadline):
            if not task.done and task.request is not None:
                settled += self._work(task, task.request)
        return settled

    def _read(self) -> bool:
        """Takes over what is new; whether there was anything."""
        mine, found = self._transactions.address, self._follower.poll()
        for event in found:
            if not isinstance(event, Event):
                self._rewind(event.to_block)
            elif event.name == "ProofJobPosted" and same_address(event.args["provider"], mine):
                job_id = event.args["jobId"]
                self._tasks[job_id] = _Task(job_id, event.block_number, event.args["job"]["proofDeadline"])
            elif event.name == "ProofRequested" and event.args["jobId"] in self._tasks:
                task = self._tasks[event.args["jobId"]]
                request = task.request = struct_of(Request, event.args["request"])
                task.ids = _ids(event.args["input"], request.input_tokens)
                if self._is_private(request):
                    self._inputs.claim(task.job_id, request.request_hash, task.deadline)
            elif event.name == "Proved" and event.args["jobId"] in self._tasks:
                self._inputs.release(event.args["jobId"])
        before = self._cursor.load()
        self._follower.commit()
        return self._cursor.load() != before

    def _rewind(self, to_block: int) -> None:
        for task in list(self._tasks.values()):
            if task.block > to_block:
                del self._tasks[task.job_id]  # it comes again, if it is on the new chain
            else:
                task.done = False  # what settled it may have fallen; the proof is still there

    def _is_private(self, request: Request) -> bool:
        artefact = self._shop.artefacts.get(request.model_id)
        return artefact is not None and artefact.program.form == InputForm.HASHED

    def _open_job(self, task: _Task) -> ProofJobView | None:
        try:
            job = self._contracts.proofs.job(task.job_id)
        except ContractError:
            return None  # a reorg took it
        return job if job.state == ProofJobState.OPEN else None

    def _work(self, task: _Task, request: Request) -> int:
        artefact = self._shop.artefacts.get(request.model_id)
        if artefact is None:
            task.done = True
            return 0
        ids, blinding = task.ids, 0
        if task.proof is None and self._is_private(request):
            given = self._inputs.get(request.request_hash)
            if given is None:
                return 0  # it may still be delivered; until then the chain is not asked: such jobs are cheap to post
            ids, blinding = given.ids, given.blinding
        elif task.proof is None and not ids:
            task.done = True
            log.warning("proof_input_unusable", job="0x" + task.job_id.hex())
            return 0
        job = self._open_job(task)
        task.done = True
        if job is None:
            return 0
        try:
            proof = self._prove(task, artefact, ids, blinding)
            if proof is None:
                return 0
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
            task.tries += 1
            task.done = error.code != "ProverKilled" or task.tries >= TRIES
            log.warning("proof_failed", job="0x" + task.job_id.hex(), code=error.code, error=str(error))
            return 0
        log.info("proved", job="0x" + task.job_id.hex(), seconds=round(proof.seconds, 2), paid=job.escrow)
        return 1

    def _prove(self, task: _Task, artefact: ProofArtefact, ids: Sequence[int], blinding: int) -> Proof | None:
        """The proof, as it was made or made now; None where it would come too late: who sends an answer after its
        deadline gives it away, and a client may leave less time than a proof takes."""
        takes = 0.0 if task.proof else self._seconds.get(artefact.model_id, _measured(artefact))
        if self._now() + takes + SEND_SECONDS > task.deadline:
            log.warning("proof_too_late", job="0x" + task.job_id.hex(), seconds=takes, deadline=task.deadline)
            return None
        if task.proof is None:
            task.proof = self._backend.prove(artefact.folder, ids, task.job_id, blinding=blinding)
            self._seconds[artefact.model_id] = task.proof.seconds
            if self._now() + SEND_SECONDS > task.deadline:
                log.warning("proof_too_late", job="0x" + task.job_id.hex(), deadline=task.deadline)
                return None
        return task.proof


def _measured(artefact: ProofArtefact) -> float:
    """Seconds that its first proof took, where its manifest says so."""
    return float(artefact.manifest.get("measured", {}).get("proveSeconds", 0))


def first_block_since(chain: Chain, timestamp: int, low: int) -> int:
    """The first block from `low` on that is not older than `timestamp` (unix seconds), or the newest. A few questions.

    Raises:
        ChainError.
    """
    high = max(low, chain.head().number)
    while low < high:
        middle = (low + high) // 2
        if chain.block(middle).timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return low


def _ids(packed: bytes, count: int) -> tuple[int, ...]:
    """The input as it stands on chain; none where it is private, or no list of ids (the contract takes the filler as an
    id, no model does)."""
    try:
        return tuple(unpack_tokens(packed, count)) if packed else ()
    except ValueError:
        return ()
