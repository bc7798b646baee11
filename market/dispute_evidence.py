"""What opening a dispute takes: request, model and output of one answer, with the ids of prompt and output.

A public job has all of it on chain once its output was published. Of a private one only its parties know the ids;
whoever disputes it writes them down for all to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from market.chain import Chain
from market.contracts import Jobs, Registry
from market.dispute_contracts import DisputeParams
from market.disputes import dispute_id_of
from market.errors import HashMismatch, MarketError
from market.events import Event, decode_logs, struct_of
from market.hashing import ZERO32, tokens_root, unpack_stop_tokens, unpack_tokens
from market.types import Finish, Model, Output, Request, Sampler
from market.verification.structs import Claim


class NoEvidence(MarketError):
    """The ids of prompt or output are nowhere to be read."""


@dataclass(frozen=True)
class Evidence:
    """One answer, whole. Hashes are checked by `check`, and again by the contract.

    Attributes:
        chain_seed: what the chain gave the subject for it (sampler 2), which the contract asks the subject itself.
    """

    subject: str
    subject_id: bytes
    provider: str
    request: Request
    model: Model
    output: Output
    input_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    chain_seed: bytes = ZERO32

    @property
    def dispute_id(self) -> bytes:
        return dispute_id_of(self.subject, self.subject_id, self.provider)

    def check(self) -> None:
        """Raises HashMismatch where ids, output, request and model do not belong together."""
        for what, ids, root, count in (
            ("prompt", self.input_ids, self.request.input_root, self.request.input_tokens),
            ("output", self.output_ids, self.output.output_root, self.output.output_tokens),
        ):
            if len(ids) != count or tokens_root(ids) != root:
                raise HashMismatch(
                    f"The ids of the {what} are not those that were hashed. Nothing was sent.",
                    hint="Give those of this very answer: the receipt that its provider signed has them.",
                    code=what,
                )
        if self.model.model_id != self.request.model_id:
            raise HashMismatch("The request is about another model. Nothing was sent.", code="ModelMismatch")

    def forbidden(self, vocabulary: int) -> str | None:
        """What the rules about lengths, stop tokens and vocabulary forbid in the output (docs/disputes.md, section 1),
        in words; None where they are kept. `dispute` judges it at once, from the ids alone.
        """
        ids, finish, most = self.output_ids, self.output.finish, self.request.max_output_tokens
        if finish not in (Finish.STOP, Finish.LENGTH):
            return None
        if not 1 <= len(ids) <= most:
            return f"it has {len(ids)} tokens, where 1 to {most} were asked for"
        stops = set(unpack_stop_tokens(self.request.stop_tokens))
        for position, token in enumerate(ids):
            if token >= vocabulary:
                return f"id {token} at output position {position} is outside the vocabulary of {vocabulary}"
            if token in stops and position + 1 < len(ids):
                return f"it goes on behind stop token {token} at output position {position}"
        if (ids[-1] in stops) != (finish == Finish.STOP):
            return f"it says that it ended by {Finish(finish).name.lower()}, and its last id is {ids[-1]}"
        if finish == Finish.LENGTH and len(ids) != most:
            return f"it ends after {len(ids)} of {most} tokens without a stop token"
        return None

    def params(self, permit: bytes = b"") -> DisputeParams:
        """As `Disputes.dispute` takes it."""
        return DisputeParams(
            subject=self.subject,
            subject_id=self.subject_id,
            provider=self.provider,
            request=self.request,
            model=self.model,
            output=self.output,
            input_ids=self.input_ids,
            output_ids=self.output_ids,
            permit=permit,
        )

    def claim(self) -> Claim:
        """What the contract will make of it."""
        return Claim(
            subject=self.subject,
            subject_id=self.subject_id,
            provider=self.provider,
            weights_root=self.model.weights_root,
            program_root=self.model.program_root,
            tables_root=self.model.tables_root,
            input_root=self.request.input_root,
            output_root=self.output.output_root,
            input_tokens=self.request.input_tokens,
            output_tokens=self.output.output_tokens,
            sampler=self.request.sampler,
            temperature_q16=self.request.temperature_q16,
            top_k=self.request.top_k,
            top_p_q16=self.request.top_p_q16,
            seed=self.chain_seed if self.request.sampler == Sampler.SEEDED_BY_CHAIN else self.request.seed,
        )


class KnownAnswers(Protocol):
    """Where evidence is looked up."""

    def request(self, job_id: bytes) -> tuple[Request, tuple[int, ...]] | None: ...
    def output(self, job_id: bytes, provider: str) -> Output | None: ...
    def ids(self, job_id: bytes, provider: str) -> tuple[int, ...] | None: ...


class Answers:
    """Public answers, collected from the events of Jobs: requests given inline, and outputs that were published.

    Feed it every event of the contract, in order; ask for an answer once both are there.
    """

    def __init__(self) -> None:
        self._requests: dict[bytes, tuple[Request, tuple[int, ...]]] = {}
        self._revealed: dict[tuple[bytes, str], Output] = {}
        self._published: dict[tuple[bytes, str], tuple[int, ...]] = {}

    def add(self, event: Event) -> None:
        """Takes what an event tells."""
        args = event.args
        if event.name == "RequestPublished":
            request = struct_of(Request, args["request"])
            self._requests[args["jobId"]] = request, tuple(unpack_tokens(args["ids"], request.input_tokens))
        elif event.name == "Revealed":
            self._revealed[args["jobId"], args["provider"]] = struct_of(Output, args["output"])
        elif event.name == "OutputPublished":
            output = struct_of(Output, args["output"])
            self._published[args["jobId"], args["provider"]] = tuple(unpack_tokens(args["ids"], output.output_tokens))
            self._revealed.setdefault((args["jobId"], args["provider"]), output)

    def request(self, job_id: bytes) -> tuple[Request, tuple[int, ...]] | None:
        return self._requests.get(job_id)

    def output(self, job_id: bytes, provider: str) -> Output | None:
        """What a replica revealed."""
        return self._revealed.get((job_id, provider))

    def ids(self, job_id: bytes, provider: str) -> tuple[int, ...] | None:
        """Ids that a replica published."""
        return self._published.get((job_id, provider))

    def providers(self, job_id: bytes) -> list[str]:
        """Replicas that revealed, in the order in which they did."""
        return [provider for found, provider in self._revealed if found == job_id]

    def forget(self, job_id: bytes) -> None:
        self._requests.pop(job_id, None)
        for store in (self._revealed, self._published):
            for key in [key for key in store if key[0] == job_id]:
                store.pop(key)


def answers_of(chain: Chain, jobs: Jobs, job_id: bytes, start_block: int) -> Answers:
    """What the chain tells about one job. Reads the logs of Jobs from `start_block` on."""
    answers = Answers()
    for event in decode_logs(chain.logs([jobs.address], start_block, chain.head().number)):
        if event.args.get("jobId") == job_id:
            answers.add(event)
    return answers


def evidence_of(
    answers: KnownAnswers,
    jobs: Jobs,
    registry: Registry,
    job_id: bytes,
    provider: str,
    *,
    request: tuple[Request, tuple[int, ...]] | None = None,
    output_ids: tuple[int, ...] | None = None,
) -> Evidence:
    """One answer of a job, whole and checked.

    Args:
        request, output_ids: what is known beside the chain (a client's own job).

    Raises:
        NoEvidence: something is nowhere to be read. HashMismatch: what is given is not what was hashed.
        ContractError: UnknownModel.
    """
    found, output, ids = request or answers.request(job_id), answers.output(job_id, provider), output_ids
    ids = ids if ids is not None else answers.ids(job_id, provider)
    lacking: Iterable[str] = [
        what for what, thing in (("prompt", found), ("revealed output", output), ("output's ids", ids)) if thing is None
    ]
    if found is None or output is None or ids is None:
        raise NoEvidence(
            f"Of {provider} in job 0x{job_id.hex()} the chain lacks the {' and the '.join(lacking)}. Nothing was sent.",
            hint="A stranger can dispute a public job only, once its output was published: whoever doubts it may "
            "demand that (`assay job demand`). Of a private job, give the ids with --answer FILE.",
            job_id="0x" + job_id.hex(),
        )
    evidence = Evidence(
        jobs.address,
        job_id,
        provider,
        found[0],
        registry.model(found[0].model_id),
        output,
        found[1],
        tuple(ids),
        chain_seed=jobs.chain_seed(job_id, found[0]),  # whoever revealed had committed, and that fixed the seed
    )
    evidence.check()
    return evidence
