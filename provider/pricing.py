"""What a job costs here and what it puts at stake: pure, from an ask and a situation to a quote or a refusal.

Rules of the contract that a quote must obey (contracts/libraries/QuoteRules.sol): bond · (1 − challengerShare) ≥
price(maxInput, maxOutput); killFee ≤ price of the request; price of the request ≤ missFee ≤ bond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from market.hashing import ZERO32, unpack_stop_tokens
from market.inference.errors import SamplingError
from market.inference.sampling import ONE_Q16, Sampling
from market.settlement import BPS, minimum_bond, price
from market.settlement import Terms as JobTerms
from market.types import Mode, Quote, Request, Sampler
from provider.config import Gas, Limits, Prices, Terms
from provider.errors import Refusal

COIN = 10**18  # wei in one gas coin


@dataclass(frozen=True)
class Product:
    """One model on sale."""

    model_id: bytes
    name: str
    context: int  # most tokens of prompt and answer together
    vocabulary: int
    prices: Prices
    uri: str = ""  # where anybody can fetch its pack, as the operator says
    indisputable: str | None = None  # why its answers cannot be answered for in a dispute, if they cannot


@dataclass(frozen=True)
class Ask:
    """A request for quote: exactly one of `request` and `model_id`. `client` zero = a quote for anyone."""

    client: str
    mode: int
    request: Request | None = None
    model_id: bytes = ZERO32

    @property
    def wanted(self) -> bytes:
        return self.model_id if self.request is None else self.request.model_id


@dataclass(frozen=True)
class Situation:
    """What the quote depends on besides the ask. Money in base units, times in unix seconds.

    Attributes:
        stake: staked in the vault and not locked.
        reserved: bonds of jobs on chain that are not committed yet. Quotes reserve nothing: they are free to ask for,
            and a job that the stake does not cover is not committed to, which costs nothing.
        load: jobs in the engine or waiting for it.
        fee_per_gas: wei, what a transaction would cost now.
    """

    now: int
    stake: int
    reserved: int
    load: int
    fee_per_gas: int


def has_step(request: Request) -> bool:
    """Whether two logits show a wrong token (ClaimRules.hasStep): only such answers can be judged."""
    whole = request.top_k == 0 and request.top_p_q16 == ONE_Q16
    seeded = request.sampler in (Sampler.SEEDED_BY_REQUEST, Sampler.SEEDED_BY_CHAIN)
    return request.sampler == Sampler.GREEDY or (seeded and whole)


@dataclass(frozen=True)
class Shop:
    """What one provider sells, to whom and how: everything that does not change between two quotes."""

    provider: str
    token: str
    challenger_share_bps: int
    products: Mapping[bytes, Product]
    modes: tuple[Mode, ...]
    terms: Terms
    gas: Gas
    limits: Limits
    samplers: tuple[Sampler, ...] = (Sampler.GREEDY, Sampler.SEEDED_BY_REQUEST, Sampler.SEEDED_BY_CHAIN)
    max_bond: int = 0
    is_judged: Callable[[bytes], bool] = lambda _: True

    def modes_of(self, product: Product) -> tuple[Mode, ...]:
        """The modes in which a model is sold now."""
        disputable = product.indisputable is None and self.is_judged(product.model_id)
        return tuple(mode for mode in self.modes if mode is not Mode.OPTIMISTIC or disputable)

    def _check_disputable(self, product: Product, request: Request | None) -> None:
        """Raises Refusal for an answer that could not be answered for in a dispute, or that nobody can judge."""
        if not self.is_judged(product.model_id):
            raise Refusal(
                "NotJudged",
                f"The market's judge does not know {product.name} yet, so it is not sold in mode optimistic.",
                hint="Anyone may teach it, once (`assay dispute accept`). Until then choose another mode.",
            )
        if product.indisputable is not None:
            raise Refusal("NotJudged", f"{product.name} is not sold in mode optimistic: {product.indisputable}.")
        if request is not None and not has_step(request):
            raise Refusal(
                "NotJudged",
                "An answer chosen by top-k or top-p cannot be judged, so it is not sold in mode optimistic.",
                hint="Leave out top-k and top-p, or choose another mode.",
                sampler=request.sampler,
            )

    def check_drawn(self, model_id: bytes, mode: int, offered: JobTerms) -> None:
        """Raises Refusal unless a drawn job's terms are at least what this provider asks, and its bond at most."""
        prices = self._product(model_id).prices
        asked = (prices.base_fee, prices.per_m_input, prices.per_m_output)
        given = (offered.base_fee, offered.price_per_m_input, offered.price_per_m_output)
        if mode == Mode.OPTIMISTIC:
            self._check_disputable(self._product(model_id), None)
        if mode not in self.modes or any(more < less for more, less in zip(given, asked, strict=True)):
            raise Refusal("TERMS_NOT_OURS", f"The drawn job pays {given}, this provider asks {asked}.")
        if offered.bond > self.max_bond:
            raise Refusal(
                "TERMS_NOT_OURS", f"The drawn job locks {offered.bond}, this provider locks {self.max_bond} at most."
            )

    def quote(self, ask: Ask, situation: Situation, nonce: int) -> Quote:
        """The quote for an ask.

        Raises:
            Refusal: with the code and the numbers; nothing was promised.
        """
        product = self._product(ask.wanted)
        if ask.mode not in self.modes:
            offered = [mode.name.lower() for mode in self.modes]
            raise Refusal(
                "MODE_NOT_OFFERED",
                f"This provider does not sell verification mode {ask.mode}, only: {', '.join(offered)}.",
                mode=ask.mode,
                offered=[int(mode) for mode in self.modes],
            )
        if ask.mode == Mode.OPTIMISTIC:
            self._check_disputable(product, ask.request)
        if ask.request is None:
            most_input = min(self.limits.max_input_tokens, product.context - 1)
            most_output = min(self.limits.max_output_tokens, product.context - 1)
            request_hash, smallest = ZERO32, (1, 1)
        else:
            check_request(ask.request, product, self.limits, self.samplers)
            most_input, most_output = ask.request.input_tokens, ask.request.max_output_tokens
            request_hash, smallest = ask.request.request_hash, (most_input, most_output)
        self._check_load(situation)

        prices = product.prices
        plain = JobTerms(prices.base_fee, prices.per_m_input, prices.per_m_output, 0, 0, 0)
        highest, lowest = price(plain, most_input, most_output), price(plain, *smallest)
        miss_fee = -(-highest * self.terms.miss_fee_bps // BPS)
        least_bond = minimum_bond(plain, most_input, most_output, self.challenger_share_bps)
        # the contract takes a bond of nothing; this provider puts something at stake for a free answer, too
        bond = max(self.terms.bond, least_bond, miss_fee, 1)
        free = situation.stake - situation.reserved
        if bond > free:
            raise Refusal(
                "InsufficientStake",
                f"The job needs a bond of {bond}, this provider has {max(free, 0)} of stake free.",
                hint="Ask again later, ask for less, or ask another provider.",
                bond=str(bond),
                free=str(max(free, 0)),
                stake=str(situation.stake),
            )
        self.check_profit(lowest, situation.fee_per_gas, seeds=takes_chain_seed(ask.request))
        return Quote(
            provider=self.provider,
            client=ask.client,
            model_id=product.model_id,
            request_hash=request_hash,
            mode=ask.mode,
            token=self.token,
            base_fee=prices.base_fee,
            price_per_m_input=prices.per_m_input,
            price_per_m_output=prices.per_m_output,
            kill_fee=lowest * self.terms.kill_fee_bps // BPS,
            miss_fee=miss_fee,
            bond=bond,
            max_input_tokens=most_input,
            max_output_tokens=most_output,
            valid_until=situation.now + self.terms.valid_seconds,
            nonce=nonce,
        )

    def check_profit(self, earns: int, fee_per_gas: int, *, seeds: bool = False) -> None:
        """Raises Refusal UNPROFITABLE where `earns` base units do not cover the gas of commit and reveal.

        `seeds`: and of storing the seed that the chain gives, which the first to commit does.
        """
        spent = self.gas_cost(fee_per_gas) + (self.gas_cost(fee_per_gas, self.gas.seed_gas) if seeds else 0)
        if earns < spent:
            raise Refusal(
                "UNPROFITABLE",
                f"The job pays {earns}, its two transactions cost {spent} at the present gas price.",
                hint="Ask again when gas is cheaper, or ask for more tokens at once.",
                price=str(earns),
                gas=str(spent),
            )

    def check_drawing(self, terms: JobTerms, input_tokens: int, output_tokens: int, fee_per_gas: int) -> None:
        """Raises Refusal where a drawn job is too long for this provider, or UNPROFITABLE where it does not pay for the
        gas of its draw besides that of commit and reveal."""
        if input_tokens > self.limits.max_input_tokens or output_tokens > self.limits.max_output_tokens:
            raise Refusal("TERMS_NOT_OURS", "The drawn job is longer than this provider's limits.")
        self.check_profit(
            price(terms, input_tokens, output_tokens) - self.gas_cost(fee_per_gas, self.gas.draw_gas), fee_per_gas
        )

    def gas_cost(self, fee_per_gas: int, gas: int | None = None) -> int:
        """Base units of the token that `gas` costs, else commit and reveal; 0 while no exchange rate is configured."""
        wei = (self.gas.commit_gas + self.gas.reveal_gas if gas is None else gas) * fee_per_gas
        return -(-wei * self.gas.token_per_coin // COIN)

    def pays_settling(self, brings: int, fee_per_gas: int) -> bool:
        """Whether settling a job that brings so many base units (pay and freed bond) is worth its gas."""
        return brings >= self.gas_cost(fee_per_gas, self.gas.settle_gas)

    def pays_release(self, bond: int, fee_per_gas: int) -> bool:
        """Whether taking back a bond is worth its gas."""
        return bond >= self.gas_cost(fee_per_gas, self.gas.release_gas)

    def _product(self, model_id: bytes) -> Product:
        product = self.products.get(model_id)
        if product is None:
            raise unknown_model(model_id)
        return product

    def _check_load(self, situation: Situation) -> None:
        if situation.load >= self.limits.queue:
            raise Refusal(
                "OVERLOADED",
                f"This provider has {situation.load} jobs, its limit is {self.limits.queue}.",
                hint="Ask again later, or ask another provider.",
                status=429,
                retry_after=5,
                count=situation.load,
                limit=self.limits.queue,
            )


def check_request(request: Request, product: Product, limits: Limits, samplers: Sequence[Sampler]) -> None:
    """Raises Refusal unless this model can run the request inside the provider's limits and with its samplers."""
    _check_sampling(request, samplers)
    if request.input_tokens == 0:
        raise Refusal("EmptyInput", "The request has no prompt tokens.", inputTokens=0)
    if request.max_output_tokens == 0:
        raise Refusal("NoOutputAsked", "The request asks for no output tokens.", maxOutputTokens=0)
    most_input = min(limits.max_input_tokens, product.context - 1)
    if request.input_tokens > most_input:
        raise Refusal(
            "INPUT_TOO_LONG",
            f"The prompt has {request.input_tokens} tokens, this provider takes {most_input}.",
            hint="Shorten the prompt.",
            inputTokens=request.input_tokens,
            limit=most_input,
        )
    most_output = min(limits.max_output_tokens, product.context - request.input_tokens)
    if request.max_output_tokens > most_output:
        raise Refusal(
            "OUTPUT_TOO_LONG",
            f"{request.max_output_tokens} output tokens are asked for, this provider gives {most_output} after "
            f"{request.input_tokens} prompt tokens.",
            hint="Ask for fewer output tokens or shorten the prompt.",
            maxOutputTokens=request.max_output_tokens,
            limit=most_output,
        )
    try:
        stop_tokens = unpack_stop_tokens(request.stop_tokens)
    except ValueError as error:
        raise Refusal("BAD_STOP_TOKENS", f"stopTokens: {error}.") from None
    if stop_tokens and stop_tokens[-1] >= product.vocabulary:
        raise Refusal(
            "BAD_STOP_TOKENS",
            f"Stop token {stop_tokens[-1]} is outside the vocabulary of {product.vocabulary}.",
            token=stop_tokens[-1],
            limit=product.vocabulary - 1,
        )


def takes_chain_seed(request: Request | None) -> bool:
    return request is not None and request.sampler == Sampler.SEEDED_BY_CHAIN


def _check_sampling(request: Request, samplers: Sequence[Sampler]) -> None:
    if request.sampler not in samplers:
        words = ", ".join(f"{int(sampler)} ({sampler.name.lower()})" for sampler in samplers)
        raise Refusal(
            "SAMPLER_NOT_OFFERED",
            f"This provider does not sample with sampler {request.sampler}, only with: {words}.",
            hint="Ask for one of these, or ask another provider.",
            sampler=request.sampler,
            offered=[int(sampler) for sampler in samplers],
        )
    try:
        Sampling.of(request, ZERO32)  # the chain's seed is not known before the job is posted
    except SamplingError as error:
        code = "BadSampler" if error.field == "sampler" else "BAD_SAMPLING"
        raise Refusal(code, error.message, sampler=request.sampler, field=error.field, value=error.value) from None


def unknown_model(model_id: bytes, status: int = 409) -> Refusal:
    """The refusal for a model that is not on sale here."""
    return Refusal(
        "UnknownModel",
        f"This provider does not serve model 0x{model_id.hex()}.",
        hint="GET /v1/models lists what it serves.",
        status=status,
        modelId="0x" + model_id.hex(),
    )
