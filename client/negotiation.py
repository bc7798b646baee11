"""From a prompt to chosen quotes: index, local filter, request for quote, selection. No money moves here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import anyio

from client.drawing import DrawWanted, plan_draw
from client.endpoints import Reach, check_endpoint
from client.errors import NotEnoughProviders, PriceAboveCap, UnsafeEndpoint
from client.job_options import ChainLimits, JobOptions, Prompt, build_request, check_options
from client.matching import Candidate, Constraints, LeftOut, ListedOffer, match, summarise
from client.model_files import ModelFiles, ModelText
from client.progress import Progress, Report
from client.provider_http import ProviderHttp, ProviderRefused, printable
from client.quotes import Wanted, verify_quote
from client.results import QuoteReport, TokenInfo
from client.rfq import RfqPolicy, gather_quotes
from client.sampling import SamplingChoice
from client.selection import Selection, VerifiedQuote, select
from client.signatures import SignatureChecker
from client.steps import StepClock
from market.errors import AssayError
from market.hashing import ZERO32
from market.index import UnknownModel
from market.types import Model, Request

DRAW_OFFER_SECONDS = 600
"""How long the terms of a drawn job can be posted: offers change meanwhile."""


class ListedModel(Protocol):
    """A published model (market.index.IndexedModel)."""

    @property
    def model_id(self) -> bytes: ...
    @property
    def roots(self) -> Model: ...
    @property
    def name(self) -> str: ...


class Directory(Protocol):
    """The local registry index (market.index.Index)."""

    def sync(self) -> int: ...
    def models(self) -> Sequence[ListedModel]: ...
    def find_model(self, name_or_id: str | bytes) -> ListedModel: ...
    def offers(self, model_id: bytes) -> Sequence[ListedOffer]: ...


@dataclass(frozen=True)
class Market:
    """What does not change between two jobs.

    Attributes:
        share_bps: the challenger's share of a slashed bond; client: the account that will post.
    """

    client: str
    token: TokenInfo
    share_bps: int
    limits: ChainLimits
    reach: Reach


@dataclass(frozen=True)
class Bargain:
    """A request and the quotes chosen for it."""

    report: QuoteReport
    request: Request
    ids: tuple[int, ...]
    prompt: Prompt
    text: ModelText
    options: JobOptions


class Negotiator:
    """Finds, asks and chooses providers.

    Args:
        now: unix seconds, not earlier than the chain's.
        is_used: whether the chain accepted a quote with this digest from this client already.
        random: n → n random bytes, for nonces and seeds.
        least_stake: base units of stake below which nobody is drawn; asked of the chain where a job is to be drawn.
    """

    def __init__(
        self,
        directory: Directory,
        market: Market,
        files: ModelFiles,
        http: ProviderHttp,
        signatures: SignatureChecker,
        *,
        now: Callable[[], int],
        is_used: Callable[[bytes], bool],
        random: Callable[[int], bytes],
        least_stake: Callable[[], int] = lambda: 0,
        policy: RfqPolicy | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._least_stake = least_stake
        self._directory = directory
        self._market = market
        self._files = files
        self._http = http
        self._signatures = signatures
        self._now = now
        self._is_used = is_used
        self._random = random
        self._policy = policy or RfqPolicy()
        self._clock = clock

    async def negotiate(self, prompt: Prompt, options: JobOptions, steps: StepClock, report: Report) -> Bargain:
        """Chooses quotes for a prompt; or, where the chain is to draw, finds terms that enough providers take.

        Raises:
            BadRequest, EmptyPrompt, UnknownModel, NotEnoughProviders, PriceAboveCap, ModelFilesUnavailable: each says
            why; nothing was spent.
        """
        check_options(options, self._market.limits)
        with steps.measure("discovery"):
            model, offers = await anyio.to_thread.run_sync(self._look_up, options.model)
        report(Progress("discovery", f"{len(offers)} offers of {printable(model.name, 60)}", {"offers": len(offers)}))
        if not offers:
            raise NotEnoughProviders(
                f"Nobody offers {model.name}.", hint="Nothing was spent. Try another model, or later.", left_out=[]
            )
        text = await self._files.load(model.roots, self.reachable(offers))
        request, ids = build_request(
            model.model_id, prompt, text, options, nonce=self._random(32), drawn_seed=self._random(32)
        )
        if options.draw:
            outcome = await self._plan_draw(model, offers, request, options, steps, report)
            return Bargain(outcome, request, ids, prompt, text, options)
        with steps.measure("matching"):
            candidates, left_out = match(offers, self._constraints(options, request))
        report(Progress("matching", f"{len(candidates)} of {len(offers)} fit", {"candidates": len(candidates)}))
        with steps.measure("negotiation"):
            quotes, refused = await self._ask(candidates, request, options)
            left_out += refused
            selection = self._select(quotes, left_out, options, model.name)
        left_out += selection.left_out
        outcome = self._report(model, request, options, selection, left_out, steps)
        message = f"{len(quotes)} quotes, {len(selection.chosen)} chosen"
        report(Progress("negotiation", message, {"escrow": outcome.escrow, "quotes": len(quotes)}))
        return Bargain(outcome, request, ids, prompt, text, options)

    async def _plan_draw(
        self,
        model: ListedModel,
        offers: Sequence[ListedOffer],
        request: Request,
        options: JobOptions,
        steps: StepClock,
        report: Report,
    ) -> QuoteReport:
        """Nobody is asked: what stands in the registry binds whoever is drawn."""
        now = await anyio.to_thread.run_sync(self._now)
        wanted = DrawWanted(
            client=self._market.client,
            request=request,
            mode=options.mode,
            replicas=options.replicas,
            token=self._market.token.address,
            share_bps=self._market.share_bps,
            model_name=printable(model.name, 60),
            valid_until=now + DRAW_OFFER_SECONDS,
            nonce=int.from_bytes(self._random(32)),
            max_price=options.max_price,
            max_escrow=options.max_escrow,
            bond=options.bond,
            least_stake=await anyio.to_thread.run_sync(self._least_stake),
        )
        with steps.measure("matching"):
            drawn, left_out = plan_draw(offers, wanted)
        count = len(drawn.eligible)
        told = f"{options.replicas} of {count} providers are to be drawn"
        report(Progress("matching", told, {"candidates": count, "price": drawn.price}))
        nothing = Selection((), (), (), 0, ZERO32)
        return dataclasses.replace(self._report(model, request, options, nothing, left_out, steps), drawn=drawn)

    def _look_up(self, wanted: str | None) -> tuple[ListedModel, Sequence[ListedOffer]]:
        self._directory.sync()
        if wanted is not None:
            model = self._directory.find_model(wanted)
            return model, self._directory.offers(model.model_id)
        on_sale = [model for model in self._directory.models() if self._directory.offers(model.model_id)]
        if len(on_sale) != 1:
            raise UnknownModel(
                "Several models are on sale: name one." if on_sale else "No model is on sale in this market.",
                hint=_listing(on_sale) or "Nothing was spent. Try later.",
            )
        return on_sale[0], self._directory.offers(on_sale[0].model_id)

    def reachable(self, offers: Sequence[ListedOffer]) -> list[str]:
        """The endpoints among offers that a client may connect to."""
        urls: list[str] = []
        for offer in offers:
            try:
                check_endpoint(offer.endpoint, self._market.reach)
            except UnsafeEndpoint:
                continue
            urls.append(offer.endpoint)
        return urls

    def _constraints(self, options: JobOptions, request: Request) -> Constraints:
        return Constraints(
            mode=options.mode,
            input_tokens=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
            token=self._market.token.address,
            share_bps=self._market.share_bps,
            max_price=options.max_price,
            allow=frozenset(address.lower() for address in options.allow),
            deny=frozenset(address.lower() for address in options.deny),
            labels=options.labels,
            min_reliability_bps=options.min_reliability_bps,
            reach=self._market.reach,
        )

    async def _ask(
        self, candidates: Sequence[Candidate], request: Request, options: JobOptions
    ) -> tuple[list[VerifiedQuote], list[LeftOut]]:
        wanted = Wanted(
            client=self._market.client,
            request=request,
            mode=options.mode,
            token=self._market.token.address,
            share_bps=self._market.share_bps,
            max_price=options.max_price,
            max_kill_fee_bps=options.max_kill_fee_bps,
            signatures=self._signatures,
            is_used=self._is_used,
        )
        now = await anyio.to_thread.run_sync(self._now)

        async def ask(candidate: Candidate) -> VerifiedQuote | LeftOut:
            begin = self._clock()
            try:
                quote, signature = await self._http.quote(
                    candidate.endpoint, request, self._market.client, int(options.mode)
                )
                milliseconds = round((self._clock() - begin) * 1000)
                return await anyio.to_thread.run_sync(
                    lambda: verify_quote(quote, signature, candidate, wanted, now=now, latency_ms=milliseconds)
                )
            except ProviderRefused as refused:
                return _left_out(candidate, refused.code, f"it refused: {refused.message}")
            except AssayError as error:
                return _left_out(candidate, error.code, printable(error.message))

        return await gather_quotes(candidates, ask, enough=options.replicas, policy=self._policy, clock=self._clock)

    def _select(
        self, quotes: Sequence[VerifiedQuote], left_out: Sequence[LeftOut], options: JobOptions, name: str
    ) -> Selection:
        seed = options.selection_seed if options.selection_seed is not None else self._random(32)
        if len({quote.provider.lower() for quote in quotes}) < options.replicas:
            raise _too_few(len(quotes), options.replicas, left_out, name)
        try:
            return select(quotes, replicas=options.replicas, seed=seed, max_escrow=options.max_escrow)
        except PriceAboveCap as error:
            error.details["left_out"] = [item.to_json() for item in left_out]
            raise

    def _report(
        self,
        model: ListedModel,
        request: Request,
        options: JobOptions,
        selection: Selection,
        left_out: Sequence[LeftOut],
        steps: StepClock,
    ) -> QuoteReport:
        return QuoteReport(
            model_id=model.model_id,
            model_name=model.name,
            mode=options.mode,
            replicas=options.replicas,
            quorum=options.quorum,
            input_tokens=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
            token=self._market.token,
            chosen=selection.chosen,
            alternatives=selection.alternatives,
            left_out=tuple(left_out),
            selection_seed=selection.seed,
            steps_ms=steps.measured(),
            sampling=SamplingChoice.of_request(request),
        )


def _left_out(candidate: Candidate, constraint: str, message: str) -> LeftOut:
    return LeftOut(candidate.provider, candidate.endpoint, "negotiation", constraint, message)


def _too_few(got: int, wanted: int, left_out: Sequence[LeftOut], name: str) -> NotEnoughProviders:
    caps = [item for item in left_out if item.constraint == "max_price"]
    least = min((int(item.details["price"]) for item in caps), default=None)
    hint = "Nothing was spent. "
    if least is not None:
        hint += f"The cheapest above your cap asks {least} base units: raise --max-price."
    else:
        hint += "Ask for fewer replicas, or try later."
    return NotEnoughProviders(
        f"{wanted} replicas of {name} are wanted, {got} providers gave a quote that holds. "
        f"Left out: {summarise(left_out) or 'nobody else offers it'}.",
        hint=hint,
        wanted=wanted,
        got=got,
        left_out=[item.to_json() for item in left_out],
    )


def _listing(models: Sequence[ListedModel]) -> str:
    names = ", ".join(f"{printable(model.name, 60)} (0x{model.model_id.hex()[:8]}…)" for model in models[:10])
    return f"On sale: {names}." if names else ""
