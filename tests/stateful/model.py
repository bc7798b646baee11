"""The market as plain Python: what each call changes, or the custom error it is refused with.

Written from docs/protocol.md, not from the contracts; payouts are market.settlement's. Checks stand in the contracts'
order, because the first broken rule names the error.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from market.hashing import ZERO32, job_id, keccak256, leaf_hash, merkle_root, unpack_tokens
from market.settlement import (
    BURNT_ADDRESS,
    BondState,
    JobState,
    Payout,
    ReplicaState,
    Terms,
    cancel,
    demand_fee,
    lapse,
    lapse_draw,
    minimum_bond,
    minimum_kill_fee,
    price,
    revoke,
    settle,
    slash,
)
from market.types import ZERO_ADDRESS, Commitment, Mode, Output, Request
from tests.stateful.ledger import Ledger, require
from tests.stateful.records import ModelJob, ModelReplica, Post
from tests.stateful.registry_model import RegistryModel, Wanted
from tests.unit.contracts.draws import blockhash

MIN_WINDOW, MAX_WINDOW = 30, 86_400
MAX_REPLICAS = 7
DISPUTE_DEADLINE = 7 * 86_400
HASHES = 256  # blocks whose hash a contract can ask for, without EIP-2935


@dataclass
class Model(Ledger):
    """The whole state: the vault's, and every job."""

    jobs: dict[bytes, ModelJob] = field(default_factory=dict)
    nonces: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    used: set[tuple[bytes, str]] = field(default_factory=set)
    unjudged: set[bytes] = field(default_factory=set)  # published models that the arbiter does not judge

    def __post_init__(self) -> None:
        super().__post_init__()
        self.registry = RegistryModel(self.constants.stake_cap, self.stake_of, lambda: self.number)

    # --- post

    def post(self, caller: str, call: Post) -> ModelJob:
        self._check_shape(call)
        escrow = sum(self._check_quote(caller, call, i) for i in range(len(call.quotes))) * (call.draw or 1)
        require(escrow <= call.max_escrow, "EscrowAboveCap", escrow=escrow, cap=call.max_escrow)
        require(not self.deprecated, "VaultDeprecated")
        missing = max(0, escrow - self.credit[caller])
        if missing:
            self._check_cap(missing)
            require(not call.malformed, "MalformedPermit", length=159, expected=160)
            self._check_pull(caller, missing, call.permit)
            if call.permit is not None:
                self.allowance[caller] = call.permit
            self._pull(caller, missing)
        self.credit[caller] -= escrow - missing
        self.held += escrow
        if not call.draw:
            self.used |= {(self.constants.domain.digest(quote), caller) for quote, _ in call.quotes}
        identity = job_id(self.constants.domain.chain_id, self.constants.jobs, caller, self.nonces[caller])
        self.nonces[caller] += 1
        job = ModelJob(
            id=identity,
            client=caller,
            request=call.request,
            mode=call.mode,
            quorum=call.quorum,
            commit_deadline=self.now + call.commit_window,
            reveal_window=call.reveal_window,
            replicas=[ModelReplica(quote) for quote, _ in call.quotes * (call.draw or 1)],
            escrow=escrow,
            inline=bool(call.inline),
            commit_window=call.commit_window,
        )
        if job.is_seeded:
            job.seed_block = self.number
        if call.draw:
            job.state = JobState.DRAWING
            for replica in job.replicas:
                replica.state = ReplicaState.UNDRAWN
            self._arm(job, failed=False)
        self.jobs[identity] = job
        return job

    def _check_shape(self, call: Post) -> None:
        k, n = call.quorum, call.draw or len(call.quotes)
        require(not call.draw or len(call.quotes) == 1, "BadDraw", draw=call.draw, quotes=len(call.quotes))
        require(call.mode != Mode.PROOF, "ModeNotBuilt", mode=call.mode)
        single = call.mode != Mode.QUORUM and k == n == 1
        several = call.mode == Mode.QUORUM and 2 <= k <= n <= MAX_REPLICAS and 2 * k > n
        require(single or several, "BadQuorum", quorum=k, replicas=n)
        for window in (call.commit_window, call.reveal_window):
            inside = MIN_WINDOW <= window <= MAX_WINDOW
            require(inside, "WindowOutOfRange", window=window, minimum=MIN_WINDOW, maximum=MAX_WINDOW)
        asked = call.request
        require(asked.input_tokens > 0, "EmptyInput")
        require(asked.max_output_tokens > 0, "NoOutputAsked")
        seeded = asked.sampler == 1 or (asked.sampler == 2 and asked.seed == ZERO32)
        require(asked.is_plain_greedy or seeded, "BadSampler", sampler=asked.sampler)
        if call.mode == Mode.OPTIMISTIC:
            model_id = asked.model_id
            require(model_id in self.registry.published, "UnknownModel", modelId=model_id)
            judged = model_id not in self.unjudged
            require(judged, "NotJudged", modelId=model_id, sampler=asked.sampler)
        if call.inline:
            self._check_inline(asked, call.inline)

    def _check_inline(self, asked: Request, packed: bytes) -> None:
        length = 32 * -(-asked.input_tokens // 8)
        require(len(packed) == length, "InputLengthMismatch", expected=length, got=len(packed))
        filler = packed[4 * asked.input_tokens :]
        require(set(filler) <= {0xFF}, "InputFillerMismatch", inputTokens=asked.input_tokens)
        root = merkle_root(leaf_hash(packed[i : i + 32]) for i in range(0, length, 32))
        require(root == asked.input_root, "InputMismatch", expected=asked.input_root, got=root)
        unpack_tokens(packed, asked.input_tokens)

    def _check_quote(self, caller: str, call: Post, index: int) -> int:
        quote, signer = call.quotes[index]
        asked, who, terms = call.request, quote.provider, Terms.of(quote)
        require(
            self.now <= quote.valid_until,
            "QuoteExpired",
            provider=who,
            validUntil=quote.valid_until,
            timestamp=self.now,
        )
        matches = {
            "client": quote.client in (ZERO_ADDRESS, caller),
            "modelId": quote.model_id == asked.model_id,
            "requestHash": quote.request_hash in (ZERO32, asked.request_hash),
            "mode": quote.mode == call.mode,
        }
        for name, holds in matches.items():
            require(holds, "QuoteMismatch", provider=who, field=word(name))
        token = self.constants.token
        require(quote.token == token, "WrongToken", token=quote.token, expected=token)
        for name, has, needs in (
            ("maxInputTokens", quote.max_input_tokens, asked.input_tokens),
            ("maxOutputTokens", quote.max_output_tokens, asked.max_output_tokens),
        ):
            require(needs <= has, "QuoteLimit", provider=who, field=word(name), has=has, needs=needs)
        cost = price(terms, asked.input_tokens, asked.max_output_tokens)
        needs = minimum_bond(terms, quote.max_input_tokens, quote.max_output_tokens, self.constants.share_bps)
        require(quote.bond >= needs, "BondTooSmall", provider=who, bond=quote.bond, needs=needs)
        fee = quote.kill_fee
        require(fee <= cost, "KillFeeTooLarge", provider=who, killFee=fee, price=cost)
        require(
            cost <= quote.miss_fee <= quote.bond,
            "MissFeeOutOfRange",
            provider=who,
            missFee=quote.miss_fee,
            price=cost,
            bond=quote.bond,
        )
        if call.draw:
            require(who == ZERO_ADDRESS, "QuoteMismatch", provider=who, field=word("provider"))
            require(signer is None, "BadSignature", provider=who)
            least = minimum_kill_fee(terms, asked.input_tokens, asked.max_output_tokens)
            require(fee >= least, "DrawFeeTooSmall", killFee=fee, minimum=least)
            return cost
        earlier = {other.provider for other, _ in call.quotes[:index]}
        require(who not in earlier, "DuplicateProvider", provider=who)
        digest = self.constants.domain.digest(quote)
        require((digest, caller) not in self.used, "QuoteUsed", provider=who, quoteDigest=digest)
        require(signer is not None and signer.address == who, "BadSignature", provider=who)
        return cost

    # --- the life of a job

    def _job(self, identity: bytes) -> ModelJob:
        require(identity in self.jobs, "UnknownJob", jobId=identity)
        return self.jobs[identity]

    def _state(self, job: ModelJob, needs: JobState) -> None:
        require(job.state is needs, "WrongState", jobId=job.id, has=job.state, needs=needs)

    def _not_after(self, job: ModelJob, deadline: int) -> None:
        require(self.now <= deadline, "TooLate", jobId=job.id, timestamp=self.now, deadline=deadline)

    def _after(self, job: ModelJob, deadline: int) -> None:
        require(self.now > deadline, "TooEarly", jobId=job.id, timestamp=self.now, opensAt=deadline + 1)

    def _replica_state(self, job: ModelJob, replica: ModelReplica, needs: ReplicaState) -> None:
        who, has = replica.provider, replica.state
        require(has is needs, "WrongReplicaState", jobId=job.id, provider=who, has=has, needs=needs)

    def _bond_state(self, job: ModelJob, replica: ModelReplica, needs: BondState) -> None:
        who, has = replica.provider, replica.bond_state
        require(has is needs, "WrongBondState", jobId=job.id, provider=who, has=has, needs=needs)

    def cancel(self, caller: str, identity: bytes) -> Payout:
        job = self._job(identity)
        require(caller == job.client, "NotClient", jobId=job.id, caller=caller)
        self._state(job, JobState.OPEN)
        require(job.committed == 0, "AlreadyCommitted", jobId=job.id, committed=job.committed)
        self._not_after(job, job.commit_deadline)
        return self._close(job, cancel(job.facts))

    def draw(self, identity: bytes) -> list[str]:
        """Returns who was drawn: nobody where the draw was armed anew."""
        job = self._job(identity)
        self._state(job, JobState.DRAWING)
        self._not_after(job, job.commit_deadline)
        require(self.number > job.draw_block, "DrawNotReady", jobId=job.id, drawBlock=job.draw_block)
        if self.number - job.draw_block > HASHES:
            self._arm(job, job.draw_failed)
            return []
        quote = job.replicas[0].quote
        drawn = self.registry.draw(
            Wanted(
                model_id=job.request.model_id,
                seed=keccak256(job.id + blockhash(job.draw_block)),
                count=len(job.replicas),
                length=job.draw_length,
                draw_block=job.draw_block,
                client=job.client,
                mode=job.mode,
                token=self.constants.token,
                base_fee=quote.base_fee,
                price_per_m_input=quote.price_per_m_input,
                price_per_m_output=quote.price_per_m_output,
                bond=quote.bond,
                input_tokens=job.request.input_tokens,
                max_output_tokens=job.request.max_output_tokens,
            )
        )
        if len(drawn) < len(job.replicas):
            self._arm(job, failed=True)
            return []
        job.state, job.commit_deadline = JobState.OPEN, self.now + job.commit_window
        self._fix_seed(job)
        for replica, provider in zip(job.replicas, drawn, strict=True):
            replica.provider, replica.state = provider, ReplicaState.ASSIGNED
        return drawn

    def _arm(self, job: ModelJob, failed: bool) -> None:
        job.draw_block, job.draw_failed = self.number, failed
        job.seed_block = job.draw_block if job.is_seeded else 0
        job.draw_length = len(self.registry.lists[job.request.model_id].order)

    # --- the seed that the chain gives

    def fix_seed(self, identity: bytes) -> None:
        job = self._job(identity)
        require(job.is_seeded, "NotSeededByChain", jobId=job.id)
        if job.seed == ZERO32:
            self._state(job, JobState.OPEN)
            self._check_seed(job)
            self._fix_seed(job)

    def seed_of(self, job: ModelJob) -> tuple[bytes, int, bool]:
        found, known = job.seed, self.number - job.seed_block
        if job.is_seeded and found == ZERO32 and job.state is JobState.OPEN and 0 < known <= HASHES:
            found = keccak256(job.id + blockhash(job.seed_block))
        return found, job.seed_block, job.seed != ZERO32

    def _check_seed(self, job: ModelJob) -> None:
        """It is fixed, or can be now."""
        if not job.is_seeded or job.seed != ZERO32:
            return
        block = job.seed_block
        require(self.number > block, "SeedNotReady", jobId=job.id, seedBlock=block)
        require(self.number - block <= HASHES, "SeedOutOfReach", jobId=job.id, seedBlock=block)

    def _fix_seed(self, job: ModelJob) -> None:
        if job.is_seeded and job.seed == ZERO32:
            job.seed = keccak256(job.id + blockhash(job.seed_block))

    def commit(self, caller: str, identity: bytes, commitment: bytes) -> None:
        job = self._job(identity)
        self._state(job, JobState.OPEN)
        self._not_after(job, job.commit_deadline)
        replica = job.replica(caller)
        self._replica_state(job, replica, ReplicaState.ASSIGNED)
        require(commitment != ZERO32, "EmptyCommitment", jobId=job.id)
        self._check_seed(job)
        require(not self.deprecated, "VaultDeprecated")
        self._bond(caller, replica.quote.bond)
        self._fix_seed(job)
        replica.state, replica.bond_state = ReplicaState.COMMITTED, BondState.LOCKED
        replica.digest = commitment
        if job.committed == len(job.replicas):
            job.state, job.reveal_deadline = JobState.REVEALING, self.now + job.reveal_window

    def reveal(self, caller: str, identity: bytes, output: Output, salt: bytes) -> None:
        job = self._job(identity)
        if job.state is not JobState.REVEALING:
            enough = job.state is JobState.OPEN and job.committed >= job.quorum
            needs = JobState.REVEALING
            require(enough, "WrongState", jobId=job.id, has=job.state, needs=needs)
            self._after(job, job.commit_deadline)
        replica = job.replica(caller)
        self._replica_state(job, replica, ReplicaState.COMMITTED)
        opened = self.constants.domain.digest(Commitment(job.id, caller, output.output_hash, salt))
        has = replica.digest
        require(opened == has, "BadReveal", jobId=job.id, provider=caller, expected=has, got=opened)
        limit, count = job.request.max_output_tokens, output.output_tokens
        fits = count == limit if output.finish == 2 else output.finish == 1 and 0 < count <= limit
        require(fits, "BadOutput", jobId=job.id, outputTokens=count, finish=output.finish)
        late = self.now > job.reveal_end
        if late:
            require(
                job.agreed is not None,
                "TooLate",
                jobId=job.id,
                timestamp=self.now,
                deadline=job.reveal_end,
            )
            require(job.agreed == output.output_hash, "LateAndNotAgreed", jobId=job.id, provider=caller)
        job.reveal_deadline, job.state = job.reveal_end, JobState.REVEALING
        replica.state = ReplicaState.LATE if late else ReplicaState.REVEALED
        replica.output, replica.digest = output, output.output_hash
        if job.mode == Mode.OPTIMISTIC:
            job.revealed_at = self.now
        in_time = [r.digest for r in job.replicas if r.state is ReplicaState.REVEALED]
        if job.agreed is None and in_time.count(output.output_hash) >= job.quorum:
            job.agreed = output.output_hash

    def settle(self, identity: bytes) -> Payout:
        job = self._job(identity)
        if job.state is JobState.DRAWING:
            self._after(job, job.commit_deadline)
            return self._close(job, lapse_draw(job.facts, failed=job.draw_failed))
        if job.state is JobState.OPEN:
            self._after(job, job.commit_deadline)
            if job.committed < job.quorum:
                return self._close(job, lapse(job.facts))
        else:
            self._state(job, JobState.REVEALING)
        if job.state is JobState.OPEN or job.revealed < job.committed:
            self._after(job, job.reveal_end)
        if job.mode == Mode.OPTIMISTIC and job.agreed is not None:
            self._undisputed(job, job.replicas[0])
        return self._close(job, settle(job.facts))

    def _close(self, job: ModelJob, payout: Payout) -> Payout:
        job.state, job.final_at, job.refunded = payout.state, self.now, payout.refunded
        for replica in job.replicas:
            if replica.provider in payout.miss_fees:
                replica.state = ReplicaState.MISSED
            if replica.provider in payout.returned:
                replica.bond_state = BondState.RELEASED
        for owner, amount in payout.credit.items():
            self.credit[owner] += amount
        self.held -= sum(payout.credit.values())
        for owner, amount in payout.stake.items():
            self._unbond(owner, amount)
        for owner, amount in payout.miss_fees.items():
            self.bonded[owner] -= amount
        return payout

    # --- bonds

    def release(self, identity: bytes, provider: str) -> None:
        job = self._job(identity)
        replica = job.replica(provider)
        self._held_bond(job, replica)
        require(job.final_at > 0, "WrongState", jobId=job.id, has=job.state, needs=JobState.SETTLED)
        self._undisputed(job, replica)
        replica.bond_state = BondState.RELEASED
        self._unbond(provider, replica.quote.bond)
        self._end_sale(replica, provider)

    def _undisputed(self, job: ModelJob, replica: ModelReplica) -> None:
        disputed = replica.bond_state is BondState.DISPUTED
        self._after(job, self.dispute_end(job, replica) + (DISPUTE_DEADLINE if disputed else 0))
        waits, until = replica.demander != ZERO_ADDRESS, replica.demand_deadline
        require(not waits, "DemandOpen", jobId=job.id, provider=replica.provider, deadline=until)

    def freeze(self, identity: bytes, provider: str, evidence: bytes) -> None:
        job = self._job(identity)
        open_to_doubt = job.final_at > 0 or job.mode == Mode.OPTIMISTIC
        require(open_to_doubt, "WrongState", jobId=job.id, has=job.state, needs=JobState.SETTLED)
        replica = job.replica(provider)
        if replica.state is not ReplicaState.LATE:
            self._replica_state(job, replica, ReplicaState.REVEALED)
        self._bond_state(job, replica, BondState.LOCKED)
        self._not_after(job, self.dispute_end(job, replica))
        expected = job.request.request_hash
        got = keccak256(keccak256(Request.type_string().encode()) + evidence)
        require(got == expected, "EvidenceMismatch", expected=expected, got=got)
        replica.bond_state = BondState.DISPUTED

    def resolve(self, identity: bytes, provider: str, guilty: bool, requester: str, prover: str) -> None:
        job = self._job(identity)
        replica = job.replica(provider)
        self._bond_state(job, replica, BondState.DISPUTED)
        self._not_after(job, self.dispute_end(job, replica) + DISPUTE_DEADLINE)
        if guilty:
            self._slash(job, replica, requester, prover)
        else:
            replica.bond_state = BondState.LOCKED

    def dispute_end(self, job: ModelJob, replica: ModelReplica) -> int:
        start = job.revealed_at if job.mode == Mode.OPTIMISTIC else job.final_at
        return (replica.demand_deadline or start) + self.constants.dispute_window

    def _held_bond(self, job: ModelJob, replica: ModelReplica) -> None:
        if replica.bond_state is not BondState.DISPUTED:
            self._bond_state(job, replica, BondState.LOCKED)

    def _slash(self, job: ModelJob, replica: ModelReplica, requester: str, prover: str) -> None:
        bond = replica.quote.bond
        parts = slash(bond, job.paid(replica), self.constants.share_bps)
        self.credit[job.client] += parts.refunded
        self.credit[requester] += parts.reward // 2
        self.credit[prover] += parts.reward - parts.reward // 2
        self.credit[BURNT_ADDRESS] += parts.burnt
        self.held -= bond
        self.bonded[replica.provider] -= bond
        job.slashed += bond
        replica.bond_state = BondState.SLASHED
        if replica.demander != ZERO_ADDRESS:
            self._close_demand(replica, replica.demander)
        self._end_sale(replica, replica.buyer)
        if not job.state.is_final:
            self._close(job, revoke(job.facts))

    # --- demands

    def demand(self, caller: str, identity: bytes, provider: str) -> None:
        job = self._job(identity)
        if job.mode == Mode.OPTIMISTIC or not job.state.is_final:
            self._state(job, JobState.REVEALING if job.mode == Mode.OPTIMISTIC else JobState.SETTLED)
        require(caller == job.client or job.inline, "NotClient", jobId=job.id, caller=caller)
        replica = job.replica(provider)
        revealed = replica.state in (ReplicaState.REVEALED, ReplicaState.LATE)
        require(revealed, "NothingOwed", jobId=job.id, provider=provider)
        require(replica.demand_deadline == 0, "AlreadyDemanded", jobId=job.id, provider=provider)
        self._held_bond(job, replica)
        self._not_after(job, self.dispute_end(job, replica))
        require(not self.deprecated, "VaultDeprecated")
        price = self.demand_price(job, replica)
        cost = self._demand_fee(replica) + price
        missing = max(0, cost - self.credit[caller])
        if missing:
            self._check_cap(missing)
            self._check_pull(caller, missing)
            self._pull(caller, missing)
        self.credit[caller] -= cost - missing
        self.held += cost
        replica.demand_deadline, replica.demander = self.now + self.constants.demand_window, caller
        replica.buyer, replica.bought_for = (caller, price) if price else (ZERO_ADDRESS, 0)

    def publish(self, caller: str, identity: bytes, packed: bytes) -> None:
        job = self._job(identity)
        replica = job.replica(caller)
        shown = replica.state is ReplicaState.REVEALED and replica.demand_deadline == 0
        free = job.mode == Mode.OPTIMISTIC and not job.final_at and shown
        if not free:
            self._demanded(job, caller)
            self._not_after(job, replica.demand_deadline)
        output = replica.output
        assert output is not None
        count, length = output.output_tokens, len(packed)
        canonical = length == 32 * -(-count // 8) and set(packed[4 * count :]) <= {0xFF}
        require(canonical, "OutputMalformed", outputTokens=count, length=length)
        root = merkle_root(leaf_hash(packed[i : i + 32]) for i in range(0, length, 32))
        got = Output(root, count, output.finish).output_hash
        require(got == replica.digest, "OutputMismatch", expected=replica.digest, got=got)
        if free:
            replica.demand_deadline = self.now
        else:
            self._close_demand(replica, caller)

    def slash_withheld(self, identity: bytes, provider: str) -> None:
        job = self._job(identity)
        replica = self._demanded(job, provider)
        disputed = replica.bond_state is BondState.DISPUTED
        self._after(job, self.dispute_end(job, replica) + DISPUTE_DEADLINE if disputed else replica.demand_deadline)
        self._slash(job, replica, replica.demander, replica.demander)

    def _demanded(self, job: ModelJob, provider: str) -> ModelReplica:
        replica = job.replica(provider)
        require(replica.demander != ZERO_ADDRESS, "NotDemanded", jobId=job.id, provider=provider)
        return replica

    def _demand_fee(self, replica: ModelReplica) -> int:
        return demand_fee(self.constants.demand_fee, replica.output.output_tokens if replica.output else 0)

    def demand_price(self, job: ModelJob, replica: ModelReplica) -> int:
        """Of an output that the client did not pay for."""
        if replica.state is not ReplicaState.REVEALED or replica.digest == job.agreed or replica.output is None:
            return 0
        return price(Terms.of(replica.quote), job.facts.input_tokens, replica.output.output_tokens)

    def _end_sale(self, replica: ModelReplica, to: str) -> None:
        self.credit[to] += replica.bought_for
        self.held -= replica.bought_for
        replica.buyer, replica.bought_for = ZERO_ADDRESS, 0

    def _close_demand(self, replica: ModelReplica, fee_to: str) -> None:
        fee = self._demand_fee(replica)
        self.credit[fee_to] += fee
        self.held -= fee
        replica.demander = ZERO_ADDRESS


def word(text: str) -> bytes:
    """A short string as Solidity's bytes32 literal."""
    return text.encode().ljust(32, b"\0")
