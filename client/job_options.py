"""What a caller asks for, and the Request it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from client.errors import BadRequest, EmptyPrompt
from client.escrow import EscrowSource
from client.log_probabilities import check_wanted
from client.model_files import Limits, ModelText
from client.sampling import Number, SamplingChoice
from client.stop_strings import check_stop_strings
from market.api import BODY_LIMIT, CONTENT_LIMIT, IDS_LIMIT, MESSAGES_LIMIT, Message
from market.hashing import STOP_TOKENS_MAX, UNUSED_TOKEN, ZERO32, pack_stop_tokens, tokens_root
from market.settlement import BPS, DRAW_FEE_BPS
from market.types import Mode, Request

_ENVELOPE = 4096  # bytes of a delivery beside messages and ids


@dataclass(frozen=True)
class JobOptions:
    """How a job is bought. Money in base units of the token, times in seconds.

    Attributes:
        model: name or modelId (0x hex); None = the only model on sale.
        mode: optimistic publishes the prompt, so that anybody can check the answer.
        replicas, quorum: n and k of the quorum; modes none and optimistic take 1 and 1.
        max_price: most that one replica may cost; max_escrow: most that all of them may cost. None = no cap.
        max_kill_fee_bps: most that a quote's kill fee may be of its price: two accounts of one provider can earn it
            for nothing by letting the commit phase fail.
        stop_tokens: ids that end the answer; None = the model's own.
        commit_window: for delivery, inference and commit; reveal_window: for the reveals after it.
        allow, deny: addresses of providers; labels: words a provider must carry.
        min_reliability_bps: least share of jobs paid, of providers with a record.
        temperature: a decimal as text (or int, Decimal); None and 0 = greedy, unless top_k, top_p or a seed is: 1.
        top_k: most tokens to choose from, 0 = no limit; top_p: share of probability to choose from, as temperature.
        seed: 32 bytes that fix the answer; None = drawn, and told in the report.
        seed_by_chain: the chain gives the seed once the job is posted, so that nobody chose the answer, this client
            neither; told in the report.
        stop_strings: text that ends the answer, cut by this client alone: the provider neither knows nor stops.
        log_probabilities: of how many likeliest tokens, up to 20, providers shall tell for each of the answer's; 0 =
            none. Nobody proves what they tell.
        selection_seed: decides between equal quotes; None = drawn, and recorded in the report.
        escrow: where the money may come from.
        draw: the chain draws who answers, out of the offers that allow it; the prompt becomes public. `bond` is the
            least that each must lock then, 0 = what the contract demands. Who may answer cannot be chosen.
        private: refuse what would make the prompt public.
    """

    model: str | None = None
    mode: Mode = Mode.QUORUM
    replicas: int = 3
    quorum: int = 2
    max_output_tokens: int = 128
    max_price: int | None = None
    max_escrow: int | None = None
    max_kill_fee_bps: int = 2_000
    stop_tokens: tuple[int, ...] | None = None
    commit_window: int = 120
    reveal_window: int = 60
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    min_reliability_bps: int = 0
    temperature: Number | None = None
    top_k: int | None = None
    top_p: Number | None = None
    seed: bytes | None = None
    seed_by_chain: bool = False
    stop_strings: tuple[str, ...] = ()
    log_probabilities: int = 0
    selection_seed: bytes | None = None
    escrow: EscrowSource = EscrowSource.AUTO
    draw: bool = False
    bond: int = 0
    private: bool = False

    @property
    def is_public(self) -> bool:
        """Whether the prompt is written on chain, for all to read for ever."""
        return self.draw or self.mode is Mode.OPTIMISTIC


@dataclass(frozen=True)
class Prompt:
    """The question: messages (rendered with the model's template) or ids, exactly one of them."""

    messages: tuple[dict[str, str], ...] | None = None
    ids: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Prompt:
        """One of: text, which becomes one message of the user; messages; token ids.

        Raises:
            EmptyPrompt: nothing in it.
            BadRequest: more than one given, or too long for one delivery.
        """
        if sum(value is not None for value in (prompt, messages, ids)) > 1:
            raise BadRequest("Give a prompt, messages or ids, only one of them.")
        if prompt is not None:
            messages = [{"role": "user", "content": prompt}]
        if ids is not None:
            if not ids:
                raise _empty()
            return cls(ids=tuple(ids))
        copied = tuple(dict(message) for message in messages or ())
        if not any(str(message.get("content", "")).strip() for message in copied):
            raise _empty()
        _check_messages(copied)
        return cls(messages=copied)


def _check_messages(messages: Sequence[dict[str, str]]) -> None:
    longest = max(len(str(message.get("content", ""))) for message in messages)
    if longest > CONTENT_LIMIT or len(messages) > MESSAGES_LIMIT:
        raise BadRequest(
            f"The prompt has {len(messages)} messages of up to {longest} characters; a request holds {MESSAGES_LIMIT} "
            f"of {CONTENT_LIMIT} at most.",
            hint="Nothing was sent. Shorten the prompt.",
            messages=len(messages),
            longest=longest,
        )
    try:
        for message in messages:
            Message.model_validate(message)
    except ValidationError:
        raise BadRequest(
            "A message has a role (system, user or assistant) and a content, both text, and nothing else.",
            hint="Nothing was sent.",
        ) from None


def _empty() -> EmptyPrompt:
    return EmptyPrompt("The prompt is empty.", hint="Nothing was sent. Give some text, @file, or - for standard input.")


@dataclass(frozen=True)
class ChainLimits:
    """What Jobs allows: windows in seconds and the most replicas."""

    min_window: int
    max_window: int
    max_replicas: int


def _refuse_to_publish(options: JobOptions) -> NoReturn:
    if options.mode is Mode.OPTIMISTIC:
        raise BadRequest(
            "Mode optimistic has no private form: its one answer is believed because anybody may compute it "
            "again, so prompt and answer are written on chain.",
            hint="Use mode quorum: the chosen providers alone read the prompt, and their answers are compared.",
            code="PrivateOptimistic",
        )
    raise BadRequest(
        "A job whose providers are drawn has no private form: nobody knows yet whom to bring the prompt, so it is "
        "written on chain.",
        hint="Choose among quotes instead of --draw.",
        code="PrivateDraw",
    )


def check_options(options: JobOptions, limits: ChainLimits) -> None:
    """Refuses what `post` would refuse, before anybody is asked.

    Raises:
        BadRequest: with the numbers.
    """
    n, k = options.replicas, options.quorum
    if options.mode is Mode.PROOF:
        raise BadRequest(
            "Mode proof answers no prompt: a proved answer, of a classifier, is bought with `assay job classify`.",
            hint="Nothing was spent. Post this job in mode quorum, none or optimistic.",
        )
    if options.private and options.is_public:
        _refuse_to_publish(options)
    if options.mode is not Mode.QUORUM and (n, k) != (1, 1):
        raise BadRequest(f"Mode {options.mode.name.lower()} takes 1 replica and quorum 1, not {n} and {k}.")
    if options.mode is Mode.OPTIMISTIC and (options.top_k or options.top_p not in (None, 1, "1")):
        raise BadRequest("An answer chosen by top-k or top-p cannot be judged: mode optimistic takes neither.")
    if options.mode is Mode.QUORUM and not (2 <= k <= n <= limits.max_replicas and 2 * k > n):
        raise BadRequest(
            f"A quorum of {k} of {n} is none: it takes 2 ≤ k ≤ n ≤ {limits.max_replicas} and 2k > n.",
            hint="The usual one is --replicas 3 --quorum 2.",
        )
    for name, window in (("commit", options.commit_window), ("reveal", options.reveal_window)):
        if not limits.min_window <= window <= limits.max_window:
            raise BadRequest(
                f"The {name} window of {window} s is not between {limits.min_window} and {limits.max_window} s."
            )
    if not 1 <= options.max_output_tokens < 1 << 32:
        raise BadRequest(f"max_output_tokens takes 1 to {(1 << 32) - 1}, not {options.max_output_tokens}.")
    if not 0 <= options.max_kill_fee_bps <= BPS:
        raise BadRequest(f"max_kill_fee_bps is a share of the price, 0 to {BPS}, not {options.max_kill_fee_bps}.")
    if options.selection_seed is not None and len(options.selection_seed) != 32:
        raise BadRequest(f"The selection seed takes 32 bytes, not {len(options.selection_seed)}.")
    sampling_of(options, ZERO32)
    check_stop_strings(options.stop_strings)
    check_wanted(options.log_probabilities, options.max_output_tokens)
    _check_draw(options)


def sampling_of(options: JobOptions, drawn_seed: bytes) -> SamplingChoice:
    """How the tokens shall be chosen. Raises BadRequest."""
    return SamplingChoice.of(
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        drawn_seed,
        by_chain=options.seed_by_chain,
    )


def _check_draw(options: JobOptions) -> None:
    if not options.draw:
        if options.bond:
            raise BadRequest("A least bond is for drawn jobs: a quote names its own.", hint="Add --draw.")
        return
    chosen = {
        "--allow": options.allow,
        "--deny": options.deny,
        "--label": options.labels,
        "--min-reliability": options.min_reliability_bps,
        "--selection-seed": options.selection_seed,
    }
    odd = [name for name, value in chosen.items() if value]
    if odd:
        raise BadRequest(f"The chain draws who answers: {', '.join(odd)} cannot be used with --draw.")
    if options.log_probabilities:
        raise BadRequest(
            "The prompt of a drawn job goes over the chain, so nobody is asked for log-probabilities.",
            hint="Leave out --logprobs, or --draw.",
        )
    if options.max_kill_fee_bps < DRAW_FEE_BPS:
        raise BadRequest(
            f"The kill fee of a drawn job is at least {DRAW_FEE_BPS} basis points of its price, "
            f"{options.max_kill_fee_bps} are allowed.",
            hint="Raise --max-kill-fee, or leave out --draw.",
        )


def build_request(
    model_id: bytes, prompt: Prompt, model: ModelText, options: JobOptions, nonce: bytes, drawn_seed: bytes
) -> tuple[Request, tuple[int, ...]]:
    """The Request and the prompt's ids.

    Args:
        nonce: 32 random bytes; they make equal prompts distinct.
        drawn_seed: 32 random bytes, for an answer that is sampled without a seed given.

    Raises:
        BadRequest: the prompt is too long for the model, or an id is outside its vocabulary.
        TextError: the template refuses the messages.
        EmptyPrompt: the prompt renders to no token.
    """
    ids = prompt.ids if prompt.ids is not None else tuple(model.text.encode_chat(list(prompt.messages or ())))
    stop_tokens = model.limits.stop_tokens if options.stop_tokens is None else options.stop_tokens
    _check_tokens(ids, stop_tokens, model.limits, options.max_output_tokens)
    _check_size(ids, prompt)
    sampling = sampling_of(options, drawn_seed)
    request = Request(
        model_id=model_id,
        input_root=tokens_root(ids),
        input_tokens=len(ids),
        max_output_tokens=options.max_output_tokens,
        stop_tokens=pack_stop_tokens(stop_tokens),
        sampler=sampling.sampler,
        temperature_q16=sampling.temperature_q16,
        top_k=sampling.top_k,
        top_p_q16=sampling.top_p_q16,
        seed=sampling.seed,
        nonce=nonce,
    )
    return request, ids


def _check_tokens(ids: Sequence[int], stop_tokens: Sequence[int], limits: Limits, max_output_tokens: int) -> None:
    if not ids:
        raise _empty()
    odd = next((token for token in (*ids, *stop_tokens) if not 0 <= token < min(limits.vocabulary, UNUSED_TOKEN)), None)
    if odd is not None:
        raise BadRequest(f"Token id {odd} is outside the model's vocabulary of {limits.vocabulary}.")
    if len(set(stop_tokens)) > STOP_TOKENS_MAX:
        raise BadRequest(f"At most {STOP_TOKENS_MAX} stop tokens are possible, not {len(set(stop_tokens))}.")
    if len(ids) + max_output_tokens > limits.context:
        raise BadRequest(
            f"The prompt has {len(ids)} tokens and {max_output_tokens} more are asked for; the model holds "
            f"{limits.context} together.",
            hint="Nothing was sent. Shorten the prompt or ask for fewer output tokens.",
            input_tokens=len(ids),
            max_output_tokens=max_output_tokens,
            context=limits.context,
        )
    if len(ids) > IDS_LIMIT:
        raise BadRequest(f"The prompt has {len(ids)} tokens; a request holds {IDS_LIMIT}.", hint="Nothing was sent.")


def _check_size(ids: Sequence[int], prompt: Prompt) -> None:
    size = len(json.dumps(list(ids))) + len(json.dumps(prompt.messages)) + _ENVELOPE
    if size > BODY_LIMIT:
        raise BadRequest(
            f"The prompt takes {size} bytes with its token ids; one delivery holds {BODY_LIMIT}.",
            hint="Nothing was sent. Shorten the prompt.",
            size=size,
            limit=BODY_LIMIT,
        )
