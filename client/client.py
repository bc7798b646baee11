"""The client: from a prompt to an agreed answer, and back to its money.

with Client.connect(rpc_url=…, deployment=Path("deployment.json"), account=account) as client:
    print(client.run("What is the capital of France?").answer)
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from eth_account.signers.local import LocalAccount

from client.accounting import balance_of, withdraw
from client.checking import Audit, CheckOptions, audit_secret, check_result
from client.conductor import Conductor, Parts
from client.demands import Demand
from client.endpoints import GuardedTransport
from client.errors import BadRequest, JobNotKnown, NotConfirmed
from client.job_options import JobOptions, Prompt
from client.marketplace import Marketplace, open_marketplace
from client.model_files import ModelFiles
from client.negotiation import Bargain, Market, Negotiator
from client.outputs import OutputReader, Patience
from client.posting import Poster
from client.progress import Report, silent
from client.provider_http import ProviderHttp
from client.results import Balance, JobResult, JobSummary, QuoteReport, Withdrawal
from client.rfq import RfqPolicy
from client.signatures import SignatureChecker
from client.steps import StepClock
from client.store import FAILED, FINAL, JobRecord, JobStore, market_key
from client.wallet import Wallet
from market.config import Home, index_url, queue_path
from market.contracts import Registry
from market.deployment import Deployment
from market.errors import ContractError
from market.events import HeadWaker
from market.index import Index
from market.keystore import load_account
from market.types import ZERO_ADDRESS, parse_bytes32
from market.views import ReplicaView

T = TypeVar("T")
HTTP_SECONDS = 10.0
"""Time-out of one HTTP exchange where no shorter one holds."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where a client keeps things and how patient it is.

    Attributes:
        data_dir: transaction queue, index, jobs; cache_dir: tokenizers and templates of models.
        index: SQLAlchemy URL of the index, None = a SQLite file in data_dir.
        packs: folders of local model packs, asked before providers for a tokenizer.
        allow_private: whether providers may be in private networks; None = on a development chain this machine only.
    """

    data_dir: Path
    cache_dir: Path
    index: str | None = None
    packs: tuple[Path, ...] = ()
    allow_private: bool | None = None
    rfq: RfqPolicy = dataclasses.field(default_factory=RfqPolicy)
    patience: Patience = dataclasses.field(default_factory=Patience)


class Client:
    """One account (or none, for looking only) on one market. Blocking and thread-safe; a context manager.

    Progress callbacks are called from another thread.
    """

    def __init__(
        self,
        marketplace: Marketplace,
        settings: Settings,
        *,
        account: LocalAccount | None = None,
        address: str | None = None,
        ws_url: str | None = None,
    ) -> None:
        """See `connect` for the usual way.

        Args:
            address: whom quotes are for where no account is given; none = anyone.
        """
        self.marketplace = marketplace
        self.address = account.address if account is not None else address or ZERO_ADDRESS
        self._account = account
        self._settings = settings
        self._stack = ExitStack()
        try:
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.store = JobStore(
                settings.data_dir / "jobs.sqlite", market_key(marketplace.chain, marketplace.jobs.address), account
            )
            self._stack.callback(self.store.close)
            url = settings.index or index_url(
                settings.data_dir, marketplace.chain.chain_id, marketplace.deployment.registry
            )
            self.index = Index(url, marketplace.chain, marketplace.deployment)
            self._stack.callback(self.index.close)
            self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal())
            self.wallet = None if account is None else self._wallet(account, settings)
            self._conductor = Conductor(self._parts(settings, ws_url))
        except OSError as error:
            self._stack.close()
            raise BadRequest(f"The folder {settings.data_dir} cannot be used: {error.strerror}.") from None
        except BaseException:
            self._stack.close()
            raise

    @classmethod
    def connect(
        cls,
        *,
        rpc_url: str,
        deployment: Deployment | Path,
        account: LocalAccount | None = None,
        keystore: Path | None = None,
        password: str = "",
        address: str | None = None,
        ws_url: str | None = None,
        data_dir: Path | None = None,
        cache_dir: Path | None = None,
        index: str | None = None,
        packs: Sequence[Path] = (),
        allow_private: bool | None = None,
        rfq: RfqPolicy | None = None,
        patience: Patience | None = None,
    ) -> Self:
        """Opens a client; the contracts are compared with the manifest first.

        Args:
            account: signs and pays; or `keystore` with `password`; or neither, for quotes and looking only.
            ws_url: wakes waiting jobs at every block; without it the chain is polled.
            data_dir, cache_dir: default to folders of the user's data (ASSAY_HOME moves them).

        Raises:
            ConfigError, KeystoreError, WrongPassword: a file or option is wrong.
            ChainUnreachable, WrongChain, ChainError: the chain is dead, or not the manifest's.
        """
        if account is None and keystore is not None:
            account = load_account(keystore, password)
        home = Home.of(os.environ).path
        settings = Settings(
            data_dir=data_dir or home / "client",
            cache_dir=cache_dir or (data_dir or home) / "models",
            index=index,
            packs=tuple(packs),
            allow_private=allow_private,
            rfq=rfq or RfqPolicy(),
            patience=patience or Patience(),
        )
        marketplace = open_marketplace(rpc_url, deployment)
        return cls(marketplace, settings, account=account, address=address, ws_url=ws_url)

    def close(self) -> None:
        """Ends everything this client started."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --------------------------------------------------------------------------------------------------- the job

    def prepare(self, model: str) -> None:
        """Optional: fetches now what the first job with this model would otherwise wait for. No money moves.

        Raises:
            UnknownModel, ModelFilesUnavailable, ChainUnreachable.
        """
        self._call(lambda: self._conductor.prepare(model))

    def quote(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        ids: Sequence[int] | None = None,
        options: JobOptions | None = None,
        progress: Report = silent,
        **changes: Any,
    ) -> QuoteReport:
        """What a job would cost and who would do it. No money moves. Arguments and errors as `negotiate`."""
        return self.negotiate(
            prompt, messages=messages, ids=ids, options=options, progress=progress, **changes
        ).bargain.report

    def negotiate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        ids: Sequence[int] | None = None,
        options: JobOptions | None = None,
        progress: Report = silent,
        **changes: Any,
    ) -> Offered:
        """Quotes that `run` or `post` can take, so that somebody may look at the price in between.

        Args:
            prompt: text, sent as one message of the user; or messages; or token ids. Exactly one.
            options: JobOptions; `changes` are fields of it, e.g. replicas=1.

        Raises:
            EmptyPrompt, BadRequest: the caller's input.
            UnknownModel, NotEnoughProviders, PriceAboveCap, ModelFilesUnavailable: the market's answer.
        """
        question = Prompt.of(prompt, messages, ids)
        chosen = dataclasses.replace(options or JobOptions(), **changes)
        bargain, steps = self._call(lambda: self._conductor.negotiate(question, chosen, progress))
        return Offered(bargain, steps)

    def run(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        ids: Sequence[int] | None = None,
        offered: Offered | None = None,
        options: JobOptions | None = None,
        progress: Report = silent,
        confirm: Callable[[QuoteReport], bool] | None = None,
        **changes: Any,
    ) -> JobResult:
        """Buys an answer: quotes, escrow, delivery, agreement, settlement, output.

        Args:
            offered: what `negotiate` gave, instead of a prompt.
            confirm: sees the price before money moves; False stops.

        Returns:
            the job as it ended. `raise_for_state` tells an answer from none: after EXPIRED or CANCELLED the escrow is
            credit again, less the kill fees.

        Raises:
            NotConfirmed, QuotesExpired, InsufficientFunds, NoAllowance, ContractError: nothing was spent.
        """
        offered = self._offered(offered, prompt, messages, ids, options, progress, changes, confirm)
        return self._call(lambda: self._conductor.run(offered.bargain, offered.steps, progress))

    def post(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        ids: Sequence[int] | None = None,
        offered: Offered | None = None,
        options: JobOptions | None = None,
        progress: Report = silent,
        confirm: Callable[[QuoteReport], bool] | None = None,
        **changes: Any,
    ) -> JobResult:
        """Posts and delivers a job without waiting for its end; `watch` goes on. Arguments and errors as `run`."""
        offered = self._offered(offered, prompt, messages, ids, options, progress, changes, confirm)
        return self._call(lambda: self._conductor.post(offered.bargain, offered.steps, progress))

    def watch(self, job_id: bytes | str, progress: Report = silent) -> JobResult:
        """Goes on with a job to its end, also after a restart or from another machine of the same account.

        Raises:
            JobNotKnown: no such job.
        """
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.watch(wanted, progress))

    def check(
        self, result: JobResult, *, audit: Audit = Audit.AUTO, dispute: bool = True, progress: Report = silent
    ) -> JobResult:
        """Computes a job's answers again, where a pack of its model is local, and disputes what is wrong to the end.
        Returns the result with what came of it; see client.checking. Raises ChainError."""
        if self.wallet is None or audit is Audit.NEVER:
            return result
        record, folders = self.store.get(result.job_id), self._settings.packs
        options = CheckOptions(audit, dispute, audit_secret(self._settings.data_dir), tuple(folders))

        def obtain(replica: ReplicaView) -> tuple[int, ...] | None:
            return self._call(lambda: self._conductor.ids_of(result.job_id, replica))

        found = check_result(
            self.marketplace, self.wallet, result.job_id, result.ids, record, options, progress, obtain
        )
        return dataclasses.replace(result, checks=tuple(found))

    def settle(self, job_id: bytes | str) -> JobResult:
        """Settles now. Raises ContractError (TooEarly, WrongState) where the contract does not let anyone."""
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.settle(wanted))

    def cancel(self, job_id: bytes | str) -> JobResult:
        """Takes a job back before the first commit; each assigned provider gets its kill fee."""
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.cancel(wanted))

    def draw(self, job_id: bytes | str) -> JobResult:
        """Draws the replicas of a job that waits for it. Raises ContractError (DrawNotReady, WrongState)."""
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.draw(wanted))

    def demand(self, job_id: bytes | str, provider: str) -> Demand:
        """Makes a provider that was paid publish the answer on chain, or lose its bond. Does the one next thing.

        Demands it for the contract's fee, waits for the provider, slashes its bond once the deadline is over, or reads
        what it published; call it again to go on.

        Raises:
            JobNotKnown: no such job. ContractError (NothingOwed, NotClient, TooLate, …): nothing was sent.
            InsufficientFunds: the fee cannot be paid.
        """
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.demand(wanted, provider))

    # ---------------------------------------------------------------------------------------------------- looking

    def show(self, job_id: bytes | str) -> JobResult:
        """A job as it stands. Raises JobNotKnown."""
        wanted = self.find(job_id)
        return self._call(lambda: self._conductor.show(wanted))

    def list(self, limit: int = 100) -> list[JobSummary]:
        """Jobs of this machine on this market, newest first."""
        return [self._summary(record) for record in self.store.all(limit)]

    def find(self, job_id: bytes | str) -> bytes:
        """A job id, from 32 bytes, 64 hex digits, or the first digits of a job of this machine.

        Raises:
            JobNotKnown: no job of this machine, or several, begin like that.
        """
        if isinstance(job_id, bytes):
            return job_id
        text = job_id.lower() if job_id.startswith("0x") else "0x" + job_id.lower()
        if len(text) == 66:
            return parse_bytes32("job id", text)
        found = self.store.find(text)
        if len(found) == 1:
            return found[0]
        problem = f"{len(found)} jobs of this machine begin with" if found else "No job of this machine begins with"
        raise JobNotKnown(
            f"{problem} {text[:20]}.",
            hint="`assay job list` shows them. A job of somebody else needs its whole id.",
            job_id=text[:66],
        )

    def forget(self, job_id: bytes | str) -> bytes:
        """Removes a job that is over, with its prompt and answer, from this machine. Returns its id.

        Raises:
            JobNotKnown: no such job here.
            BadRequest: it is not over; nothing was removed.
        """
        wanted = self.find(job_id)
        record = self.store.get(wanted)
        if record is None:
            raise JobNotKnown(f"Job 0x{wanted.hex()} is not in the store of this machine.", job_id="0x" + wanted.hex())
        summary = self._summary(record)
        if record.state not in (FINAL, FAILED) and summary.state in ("drawing", "open", "revealing"):
            raise BadRequest(
                f"The job is {summary.state}: without its record the answer is lost. Nothing was removed.",
                hint=f"Finish it with `assay job watch 0x{wanted.hex()[:12]}`, or cancel it, then forget it.",
            )
        self.store.forget(wanted)
        return wanted

    def balance(self) -> Balance:
        """Where the account's money is."""
        if self.address == ZERO_ADDRESS:
            raise BadRequest("Whose balance? No account was given.", hint="Name a keystore with --keystore.")
        return balance_of(self.marketplace, self.address, self.store)

    def withdraw(self, amount: int | None = None, to: str | None = None) -> Withdrawal:
        """Takes credit out of the vault; all of it by default. Raises InsufficientFunds."""
        if self.wallet is None:
            raise BadRequest("Withdrawing needs the account's key.", hint="Name a keystore with --keystore.")
        return withdraw(self.marketplace, self.wallet, amount, to)

    # --------------------------------------------------------------------------------------------------- plumbing

    def _offered(
        self,
        offered: Offered | None,
        prompt: str | None,
        messages: Sequence[Mapping[str, str]] | None,
        ids: Sequence[int] | None,
        options: JobOptions | None,
        progress: Report,
        changes: Mapping[str, Any],
        confirm: Callable[[QuoteReport], bool] | None,
    ) -> Offered:
        if self.wallet is None:
            raise BadRequest("Posting needs the account's key; nothing was sent.", hint="Name a keystore.")
        if offered is None:
            offered = self.negotiate(prompt, messages=messages, ids=ids, options=options, progress=progress, **changes)
        if confirm is not None and not confirm(offered.bargain.report):
            raise NotConfirmed("Not confirmed; nothing was spent.")
        return offered

    def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs a coroutine in the client's own thread; an interrupt ends it there too."""
        future = self._portal.start_task_soon(work)
        try:
            return future.result()
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    def _summary(self, record: JobRecord) -> JobSummary:
        state, escrow = record.state, 0
        if record.state != FAILED:
            try:
                job = self.marketplace.jobs.job(record.job_id)
                state, escrow = job.state.name.lower(), job.escrow
            except ContractError:
                state = record.state  # not on chain (yet)
        return JobSummary(
            job_id=record.job_id,
            created_at=record.created_at,
            state=state,
            model_id=record.request.model_id,
            mode=record.mode,
            replicas=record.replicas,
            quorum=record.quorum,
            escrow=escrow,
            prompt=record.messages[-1]["content"][:80] if record.messages else "",
            answer=record.result.get("answer"),
            is_encrypted=record.is_encrypted,
        )

    def _wallet(self, account: LocalAccount, settings: Settings) -> Wallet:
        chain = self.marketplace.chain
        wallet = Wallet(chain, account, queue_path(settings.data_dir, chain.chain_id, account.address))
        self._stack.callback(wallet.close)
        return wallet

    def _parts(self, settings: Settings, ws_url: str | None) -> Parts:
        place, account, wallet = self.marketplace, self._account, self.wallet
        reach = place.reach(settings.allow_private)
        session = httpx.AsyncClient(transport=GuardedTransport(reach), timeout=HTTP_SECONDS, trust_env=False)
        http = ProviderHttp(self._stack.enter_context(self._portal.wrap_async_context_manager(session)))
        signatures = SignatureChecker(place.jobs.domain, place.chain)
        files = ModelFiles(http, settings.cache_dir, settings.packs)
        market = Market(self.address, place.token_info, place.share_bps, place.limits, reach)
        negotiator = Negotiator(
            self.index,
            market,
            files,
            http,
            signatures,
            now=place.clock.now,
            is_used=lambda digest: place.jobs.quote_used(digest, self.address),
            random=secrets.token_bytes,
            least_stake=Registry(place.chain, place.deployment.registry).draw_stake_minimum,
            policy=settings.rfq,
        )
        poster = reader = None
        if account is not None and wallet is not None:
            poster = Poster(
                place.jobs, place.vault, place.token, wallet, self.store, http, signatures, now=place.clock.now
            )
            reader = OutputReader(http, signatures, account, settings.patience)
        return Parts(
            marketplace=place,
            directory=self.index,
            store=self.store,
            files=files,
            negotiator=negotiator,
            waker=lambda: HeadWaker(ws_url),
            wallet=wallet,
            poster=poster,
            reader=reader,
        )


@dataclasses.dataclass(frozen=True)
class Offered:
    """Quotes on the table, and the clock that has run since they were asked for."""

    bargain: Bargain
    steps: StepClock

    @property
    def report(self) -> QuoteReport:
        return self.bargain.report
