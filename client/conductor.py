"""One job from prompt to answer, step after step. Asynchronous; client/client.py is its blocking face."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from client.demands import Demand, demand_next
from client.errors import BadRequest, JobNotKnown
from client.following import Follow
from client.job_options import JobOptions, Prompt
from client.marketplace import Marketplace
from client.model_files import ModelFiles
from client.negotiation import Bargain, Directory, Negotiator
from client.outputs import FetchedOutput, OutputReader, Source
from client.posting import Posted, Poster
from client.progress import Progress, Report
from client.reporting import chain_seed_of, compose, documents, first_block_of, gas_of, outcome_json, sources_of
from client.results import JobResult
from client.steps import StepClock
from client.store import FINAL, PREPARED, JobRecord, JobStore, updated
from client.wallet import Wallet, await_earlier
from market.chain import Call
from market.errors import AssayError, ContractError
from market.events import HeadWaker
from market.types import Mode, Model
from market.views import JobState, JobView, ReplicaView

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts a conductor works with. `wallet`, `poster` and `reader` are None for a client without a key."""

    marketplace: Marketplace
    directory: Directory
    store: JobStore
    files: ModelFiles
    negotiator: Negotiator
    waker: Callable[[], HeadWaker]
    wallet: Wallet | None
    poster: Poster | None
    reader: OutputReader | None


class Conductor:
    """See the module. Raises what the parts raise; nothing is caught here but what a report can say better."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def prepare(self, model: str) -> None:
        """Brings the index up to date and loads a model's tokenizer, so that the first job need not."""
        await anyio.to_thread.run_sync(self._parts.directory.sync)
        roots, endpoints = await anyio.to_thread.run_sync(self._model, model)
        await self._parts.files.load(roots, endpoints)

    async def negotiate(self, prompt: Prompt, options: JobOptions, report: Report) -> tuple[Bargain, StepClock]:
        """Quotes for a prompt, and the clock that has been running since. No money moves."""
        steps = StepClock()
        bargain = await self._parts.negotiator.negotiate(prompt, options, steps, report)
        steps.pause()
        return bargain, steps

    async def post(self, bargain: Bargain, steps: StepClock, report: Report) -> JobResult:
        """Posts and delivers once; returns the open job."""
        steps.resume()
        poster = self._need(self._parts.poster)

        async def work(group: TaskGroup) -> Posted:
            return await poster.post(bargain, steps, report, group)

        posted = await _with_helpers(work)
        return await anyio.to_thread.run_sync(self._show, posted.record.job_id)

    async def run(self, bargain: Bargain, steps: StepClock, report: Report) -> JobResult:
        """Posts, waits, settles, fetches the answer."""
        steps.resume()
        poster = self._need(self._parts.poster)

        async def work(group: TaskGroup) -> tuple[JobRecord, JobView, dict[str, int]]:
            posted = await poster.post(bargain, steps, report, group)
            job = await self._follow(posted.record.job_id, steps, report)
            return poster.note_deliveries(posted.record, posted.courier, steps), job, posted.gas

        record, job, gas = await _with_helpers(work)
        result = await self._finish(record.job_id, record, job, steps, report, gas)
        return dataclasses.replace(result, left_out=bargain.report.left_out)

    async def watch(self, job_id: bytes, report: Report) -> JobResult:
        """Goes on with a job, also after a restart: delivers what was not accepted, waits, settles, fetches."""
        record = self._parts.store.get(job_id)
        steps = StepClock(known=None if record is None else record.steps_ms)
        if record is not None and record.state == PREPARED:
            await anyio.to_thread.run_sync(self._adopt)
        known = record

        async def work(group: TaskGroup) -> tuple[JobRecord | None, JobView]:
            job = await anyio.to_thread.run_sync(self._job, job_id)
            poster, courier = self._parts.poster, None
            is_ours = known is not None and not known.is_encrypted and not job.state.is_final
            if known is not None and poster is not None and is_ours and len(known.acceptances) < len(known.quotes):
                courier = poster.start_again(known, report, group)
            job = await self._follow(job_id, steps, report)
            if courier is None or poster is None or known is None:
                return known, job
            return poster.note_deliveries(known, courier, steps), job

        record, job = await _with_helpers(work)
        return await self._finish(job_id, record, job, steps, report, {})

    async def settle(self, job_id: bytes) -> JobResult:
        """Sends `settle` now. Raises ContractError where the contract does not let anyone yet."""
        await self._send_simply(self._parts.marketplace.jobs.settle(job_id), f"settle:{job_id.hex()}")
        return await anyio.to_thread.run_sync(self._show, job_id)

    async def cancel(self, job_id: bytes) -> JobResult:
        """Takes a job back before the first commit; kill fees are paid. Raises ContractError where it is too late."""
        await self._send_simply(self._parts.marketplace.jobs.cancel(job_id), f"cancel:{job_id.hex()}")
        return await anyio.to_thread.run_sync(self._show, job_id)

    async def draw(self, job_id: bytes) -> JobResult:
        """Draws the replicas of a job that waits for it. Anyone may."""
        job = await anyio.to_thread.run_sync(self._job, job_id)
        await self._send_simply(self._parts.marketplace.jobs.draw(job_id), f"draw:{job_id.hex()}:{job.draw_block}")
        return await anyio.to_thread.run_sync(self._show, job_id)

    async def demand(self, job_id: bytes, provider: str) -> Demand:
        """The next thing about an output that is withheld: demand it, wait, slash the bond, or read what is there."""
        wallet = self._need(self._parts.wallet)
        job = await anyio.to_thread.run_sync(self._job, job_id)
        place = self._parts.marketplace
        found = await anyio.to_thread.run_sync(demand_next, place, wallet, job_id, provider)
        if found.ids is None:
            return found
        output = FetchedOutput(ids=found.ids)
        return dataclasses.replace(found, answer=await self._decode(job, output))

    async def show(self, job_id: bytes) -> JobResult:
        """The job as it stands. Nothing is sent."""
        return await anyio.to_thread.run_sync(self._show, job_id)

    # ------------------------------------------------------------------------------------------------------ parts

    async def _follow(self, job_id: bytes, steps: StepClock, report: Report) -> JobView:
        parts = self._parts
        async with parts.waker() as waker:
            follow = Follow(
                parts.marketplace.jobs,
                waker,
                now=parts.marketplace.clock.now,
                send=None if parts.wallet is None else parts.wallet.send,
                restore=lambda: None if parts.wallet is None else parts.wallet.send_again_what_is_gone(),
                steps=steps,
                report=report,
            )
            return await follow.until_final(job_id)

    async def _finish(
        self,
        job_id: bytes,
        record: JobRecord | None,
        job: JobView,
        steps: StepClock,
        report: Report,
        gas: Mapping[str, int],
    ) -> JobResult:
        """Fetches the output of a settled job, remembers it, and tells the whole story."""
        parts = self._parts
        replicas = await anyio.to_thread.run_sync(parts.marketplace.jobs.replicas, job_id)
        output, answer = FetchedOutput(), None
        answered = job.state is JobState.SETTLED or (job.mode is Mode.OPTIMISTIC and job.is_agreed)
        if answered and parts.reader is not None:
            report(Progress("output", "fetching the answer"))
            output = await self._fetch(job_id, record, job, replicas)
            answer = await self._decode(job, output)
        steps.note("inference", max(output.inference_ms, default=0))
        steps.pause(output.answered_at)
        gas = dict(gas) | await anyio.to_thread.run_sync(self._gas, job_id, record, output.problems)
        if record is not None:
            outcome = outcome_json(output, answer, gas, record.stop_strings)
            record = updated(parts.store, record, state=FINAL, steps_ms=steps.measured(), result=outcome)
        domain, token = parts.marketplace.jobs.domain, parts.marketplace.token_info
        seed = await anyio.to_thread.run_sync(chain_seed_of, parts.marketplace.jobs, record)
        result = compose(job_id, job, replicas, record, token, domain, steps.as_milliseconds(), output.problems, seed)
        if record is None and output.ids is not None:  # a job of another machine, opened with the same key
            receipts = documents(output.receipts, domain, None, output.ids)
            result = dataclasses.replace(
                result,
                ids=output.ids,
                answer=answer,
                receipts=receipts,
                log_probabilities=output.log_probabilities,
            )
        return result

    async def _fetch(
        self, job_id: bytes, record: JobRecord | None, job: JobView, replicas: list[ReplicaView]
    ) -> FetchedOutput:
        reader = self._need(self._parts.reader)
        endpoints = await anyio.to_thread.run_sync(self._endpoints, record, job)
        now = await anyio.to_thread.run_sync(self._parts.marketplace.clock.now)
        return await reader.fetch(job_id, job, sources_of(job, replicas, endpoints), now)

    async def ids_of(self, job_id: bytes, replica: ReplicaView) -> tuple[int, ...] | None:
        """Ids of one replica's output, whatever was agreed; None where it does not serve them."""
        parts, record = self._parts, self._parts.store.get(job_id)
        if parts.reader is None:
            return None
        job = await anyio.to_thread.run_sync(parts.marketplace.jobs.job, job_id)
        endpoints = await anyio.to_thread.run_sync(self._endpoints, record, job)
        endpoint = endpoints.get(replica.provider.lower())
        if endpoint is None:
            return None
        now = await anyio.to_thread.run_sync(parts.marketplace.clock.now)
        its = dataclasses.replace(job, output_hash=replica.digest)
        return (await parts.reader.fetch(job_id, its, [Source(replica, endpoint)], now)).ids

    async def _decode(self, job: JobView, output: FetchedOutput) -> str | None:
        if output.ids is None:
            return None
        try:
            roots, endpoints = await anyio.to_thread.run_sync(self._model, job.model_id)
            text = (await self._parts.files.load(roots, endpoints)).text
            output.log_probabilities = tuple(
                each.with_texts(lambda token: text.decode([token], keep_special=True))
                for each in output.log_probabilities
            )
            return text.decode(output.ids)
        except AssayError as error:
            output.problems.append(f"the answer's text could not be made: {error}")
            return None

    def _model(self, wanted: bytes | str) -> tuple[Model, list[str]]:
        """Roots of a model and where it is served."""
        model = self._parts.directory.find_model(wanted)
        return model.roots, self._parts.negotiator.reachable(self._parts.directory.offers(model.model_id))

    def _endpoints(self, record: JobRecord | None, job: JobView) -> dict[str, str]:
        """Where replicas are reached: as they are registered now, else as they were when they quoted."""
        known = {} if record is None else {q.quote.provider.lower(): q.endpoint for q in record.quotes}
        try:
            self._parts.directory.sync()
            offers = self._parts.directory.offers(job.model_id)
        except AssayError:
            return known
        return known | {offer.provider.lower(): offer.endpoint for offer in offers if offer.endpoint}

    def _gas(self, job_id: bytes, record: JobRecord | None, problems: list[str]) -> dict[str, int]:
        place = self._parts.marketplace
        try:
            first = first_block_of(place.chain, record, place.deployment.block)
            return gas_of(place.jobs, job_id, first)
        except AssayError as error:
            problems.append(f"gas could not be read: {error}")
            return {}

    def _show(self, job_id: bytes) -> JobResult:
        record = self._parts.store.get(job_id)
        job = self._job(job_id)
        replicas = self._parts.marketplace.jobs.replicas(job_id)
        steps = StepClock(known=None if record is None else record.steps_ms).as_milliseconds()
        place = self._parts.marketplace
        seed = chain_seed_of(place.jobs, record)
        return compose(job_id, job, replicas, record, place.token_info, place.jobs.domain, steps, chain_seed=seed)

    def _job(self, job_id: bytes) -> JobView:
        try:
            return self._parts.marketplace.jobs.job(job_id)
        except ContractError as error:
            if error.code != "UnknownJob":
                raise
            record = self._parts.store.get(job_id)
            known = "it was prepared here but never posted, so nothing was spent" if record else "nobody posted it"
            raise JobNotKnown(
                f"There is no job 0x{job_id.hex()} on this chain: {known}.",
                hint="`assay job list` shows the jobs of this machine.",
                job_id="0x" + job_id.hex(),
            ) from None

    def _adopt(self) -> None:
        """A client died between storing and posting: the queue knows whether the transaction went out."""
        if self._parts.wallet is not None:
            with self._parts.wallet.open() as transactions:
                await_earlier(transactions)

    async def _send_simply(self, call: Call, key: str) -> None:
        wallet = self._need(self._parts.wallet)
        await anyio.to_thread.run_sync(wallet.send, call, key)

    def _need(self, part: T | None) -> T:
        if part is None:
            raise BadRequest("This needs the account's key; nothing was sent.", hint="Name a keystore with --keystore.")
        return part


async def _with_helpers(work: Callable[[TaskGroup], Awaitable[T]]) -> T:
    """Runs `work` beside helpers that it starts in the group; they end with it. Its own error comes out unwrapped."""
    error: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            result = await work(group)
        except Exception as caught:  # noqa: BLE001 - raised again below, outside the group
            error = caught
        group.cancel_scope.cancel()
    if error is not None:
        raise error
    return result
