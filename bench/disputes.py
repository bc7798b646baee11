"""A dispute about a 64-token answer of the real model to a prompt of 128 tokens, between processes on anvil.

Two liars are played: one that stands by a wrong token and shows a trace whose logits make it win (the deepest leaf
there is), and one whose tokens are right but whose trace has one wrong number in a down-projection. Both sides are
automatic: the provider's agent, and `market.dispute_resolution.resolve`. Steps of every operation are measured with
openings of a right trace, the choice of an id by greedy and by seeded keys too: a step costs the same whether it finds
something or not.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from assay.demo import connect
from assay.network import LocalNetwork, NetworkPlan
from bench.common import Row
from bench.disputability import Look, look
from bench.timing import Took, took
from bench.trace_memory import row as trace_memory
from client import Client
from client.disputing import player_of
from market.chain import Call, Chain, same_address
from market.contracts import Registry
from market.dispute_contracts import Judge
from market.dispute_evidence import Evidence, answers_of, evidence_of
from market.dispute_resolution import resolve
from market.disputes import Fault
from market.errors import ContractError
from market.events import decode_logs
from market.hashing import keccak256
from market.inference.engine import Engine, load_engine
from market.inference.sampling import ONE_Q16
from market.models.pack import Pack, load_pack
from market.types import Mode, Sampler
from market.verification.accusation import Accuser, accuse_token
from market.verification.descent import Descent
from market.verification.geometry import Operation, Place, number_of
from market.verification.inputs import Inputs
from market.verification.model_trees import ModelTrees
from market.verification.products import Products
from market.verification.structs import Accusation, Opening, Shape
from market.verification.trace import Trace
from provider.config import Terms

PACK = Path(__file__).resolve().parent.parent / "build" / "models" / "smollm2-135m-instruct"
ADVERSARIES = Path(__file__).resolve().parent.parent / "tests" / "adversaries.py"
PROMPT, OUTPUT = 128, 64
BOND = 50 * 10**6
LIES = {"stubborn": ("stubborn",), "misprint": ("misprint", "--lie", "17:DOWN")}
SEED = keccak256(b"seed")
RUNS = 5  # of inference and of a trace by turns, for their ratio


@dataclass(frozen=True)
class Game:
    """One dispute from `dispute` to the slash: whatever the two keys sent, reverted or not."""

    fault: Fault
    transactions: int
    reverted: int
    gas: int
    proof_gas: int
    replies: int
    seconds: float


def run() -> list[Row]:
    """Plays both liars and measures traces, steps and the cost of being disputable."""
    pack = load_pack(PACK)
    engine = load_engine(pack, threads=1)
    ids, output = prompt_of(pack, engine)
    inference, traced, trace = trace_times(pack, engine, ids, output)
    games: dict[str, Game] = {}
    step_gas: dict[str, int] = {}
    overhead: Look | None = None
    for name, program in LIES.items():
        with tempfile.TemporaryDirectory(prefix="assay-bench-") as folder:
            plan = NetworkPlan(
                directory=Path(folder),
                packs=(PACK,),
                providers=1,
                terms=Terms(bond=BOND),
                reply_window=120,
                substitutes={0: (sys.executable, str(ADVERSARIES), *program)},
            )
            with LocalNetwork(plan) as network, connect(network, network.start()) as client:
                evidence = bought(client, ids)
                games[name] = play(client, pack, evidence)
                print(f"{name}: {games[name]}", flush=True)
                if not step_gas:
                    step_gas = steps(client.marketplace.chain, client, pack, evidence, trace)
                    overhead = look(client.marketplace, pack, engine, ids)
    assert overhead is not None
    deepest = trace.geometry.node_of(Place(trace.geometry.groups - 1, Operation.LOGITS, OUTPUT - 1, 0)).depth
    return [*rows(games, step_gas, traced.over(inference), deepest, overhead), trace_memory(PROMPT, OUTPUT)]


def rows(
    games: dict[str, Game], step_gas: dict[str, int], trace_vs_inference: Took, deepest: int, overhead: Look
) -> list[Row]:
    most = max(game.transactions for game in games.values())
    gas = max(game.gas for game in games.values())
    seconds = max(game.seconds for game in games.values())
    dearest = max(step_gas, key=lambda name: step_gas[name])
    choices = ", ".join(f"{name} {used:,}" for name, used in step_gas.items() if name.startswith("CHOICE"))
    replies = max(game.replies for game in games.values())
    binary = deepest + 1  # a round each level, and the payload
    both = "both sides, from dispute to slash; the worse of two liars"
    reverted = sum(game.reverted for game in games.values())
    keys = f"whatever either key sent, {reverted or 'none'} of them reverted"
    proofs = ", ".join(f"{name} {game.proof_gas:,}" for name, game in games.items())
    return [
        Row("transactions", f"transactions, {both} ({keys})", most, "", bar="≤ 14", holds=most <= 14),
        Row("gas_total", f"gas, {both}", gas, "gas", bar="≤ 2500000", holds=gas <= 2_500_000),
        Row(
            "gas_step_max",
            f"gas of the dearest step, a transaction of its own ({dearest}, of {len(step_gas)} with {choices})",
            step_gas[dearest],
            "gas",
            bar="≤ 500000",
            holds=step_gas[dearest] <= 500_000,
        ),
        Row(
            "gas_proof",
            f"gas of the transaction that convicts, slash included ({proofs})",
            max(game.proof_gas for game in games.values()),
            "gas",
        ),
        Row(
            "seconds",
            "wall seconds from dispute to slash, both sides automatic, traces included; the worse",
            round(seconds, 1),
            "s",
            bar="≤ 60",
            holds=seconds <= 60,
        ),
        Row(
            "trace_vs_inference",
            f"wall time of a trace against the inference ({PROMPT} + {OUTPUT} tokens), both on all processors",
            trace_vs_inference.wall,
            "×",
            bar="≤ 3",
            holds=trace_vs_inference.wall <= 3,
        ),
        Row(
            "trace_vs_inference_cpu",
            "the same by processor time, the inference on one thread",
            trace_vs_inference.cpu,
            "×",
        ),
        Row(
            "rounds_vs_binary",
            f"replies on the longest way down against a bisection of the same tree ({binary} rounds)",
            replies / binary,
            "",
            peer="bisection",
            peer_value=binary,
            bar="≤ 0.25",
            holds=replies / binary <= 0.25,
        ),
        Row(
            "online_overhead",
            "processor time of inference with disputability against without: a look for disputes every second beside "
            f"it ({overhead.added.cpu * 1000:.2f} ms, median of {overhead.pairs} pairs by turns), nothing of a trace",
            overhead.overhead.cpu,
            "×",
            bar="≤ 1.01",
            holds=overhead.overhead.cpu <= 1.01,
        ),
        Row(
            "online_overhead_wall",
            f"the same by the wall's clock ({overhead.added.wall * 1000:.2f} ms each)",
            overhead.overhead.wall,
            "×",
        ),
    ]


def prompt_of(pack: Pack, engine: Engine) -> tuple[list[int], tuple[int, ...]]:
    """The first prompt, of random ids, that the model answers with no stop token in 64 tokens; and the answer."""
    for seed in range(100):
        ids = random.Random(seed).choices(range(1_000, pack.limits.vocabulary), k=PROMPT)
        output = engine.generate(ids, OUTPUT, pack.limits.stop_tokens).ids
        if len(output) == OUTPUT and not set(output) & set(pack.limits.stop_tokens):
            return ids, output
    raise SystemExit("no prompt found")


def trace_times(pack: Pack, engine: Engine, ids: list[int], output: tuple[int, ...]) -> tuple[Took, Took, Trace]:
    """Of the inference and of a trace, the best of some runs by turns; and the trace. The wall's clock counts for an
    engine on all processors, which is what a provider serves with unless told otherwise and what a trace has too; the
    processors' for one thread, which waits for nobody by spinning.
    """
    both = load_engine(pack, threads=len(os.sched_getaffinity(0)))
    products = Products.proved(pack.model)
    traces = [Trace(pack.model, Shape.of(pack.program), ids, output, products=products) for _ in range(RUNS)]
    alone, together, built = list[Took](), list[Took](), list[Took]()
    for trace in traces:
        alone.append(took(lambda: engine.generate(ids, OUTPUT, ())))
        together.append(took(lambda: both.generate(ids, OUTPUT, ())))
        built.append(took(trace.root))
    return Took(Took.best(together).wall, Took.best(alone).cpu), Took.best(built), traces[-1]


def bought(client: Client, ids: list[int]) -> Evidence:
    """An answer of the only provider, and the evidence about it."""
    result = client.run(ids=ids, max_output_tokens=OUTPUT, mode=Mode.NONE, replicas=1, quorum=1)
    place, record = client.marketplace, client.store.get(result.job_id)
    assert record is not None
    answers = answers_of(place.chain, place.jobs, result.job_id, place.deployment.block)
    provider = answers.providers(result.job_id)[0]
    registry = Registry(place.chain, place.deployment.registry)
    request = (record.request, record.ids)
    found = evidence_of(answers, place.jobs, registry, result.job_id, provider, request=request, output_ids=result.ids)
    assert len(found.output_ids) == OUTPUT
    return found


def play(client: Client, pack: Pack, evidence: Evidence) -> Game:
    assert client.wallet is not None
    place = client.marketplace
    player = player_of(place, client.wallet, [pack])
    before = place.chain.head().number
    started = time.monotonic()
    player.open(evidence)
    result = resolve(player, evidence.dispute_id)
    seconds = time.monotonic() - started
    assert result.guilty, result.reason
    assert result.verdict is not None
    assert result.verdict.fault is not None
    receipts = sent(place.chain, (client.address, evidence.provider), before, result.played[-1].transaction)
    logs = place.chain.logs([place.deployment.disputes], before, place.chain.head().number)
    given = sum(event.name in ("RootGiven", "HashesGiven", "PayloadGiven") for event in decode_logs(logs))
    gas = sum(int(receipt["gasUsed"], 16) for receipt in receipts)
    reverted = sum(receipt["status"] != "0x1" for receipt in receipts)
    return Game(result.verdict.fault, len(receipts), reverted, gas, result.played[-1].gas, given, seconds)


def sent(chain: Chain, keys: tuple[str, ...], before: int, last: str) -> list[dict[str, Any]]:
    """Receipts of every transaction of the keys after a block, up to the block of the last one: as many as nonces."""
    found: list[dict[str, Any]] = []
    for number in count(before + 1):
        block = chain.rpc("eth_getBlockByNumber", hex(number), True)
        for transaction in block["transactions"]:
            if any(same_address(transaction["from"], key) for key in keys):
                receipt = chain.receipt(transaction["hash"])
                assert receipt is not None
                found.append(receipt)
        if any(transaction["hash"] == last for transaction in block["transactions"]):
            break
    nonces = sum(chain.transaction_count(key, hex(number)) - chain.transaction_count(key, hex(before)) for key in keys)
    assert nonces == len(found)
    return found


def steps(chain: Chain, client: Client, pack: Pack, evidence: Evidence, trace: Trace) -> dict[str, int]:
    """Gas of one step of each operation, at the last position, as if it were a transaction."""
    judge, claim = Judge(chain, client.marketplace.deployment.judge), evidence.claim()
    if evidence.output_ids != trace.output_ids:
        trace = Trace(pack.model, Shape.of(pack.program), evidence.input_ids, evidence.output_ids)
    descent = Descent(trace, trace.root())
    accuser, inputs = Accuser(descent, ModelTrees(pack.model, Shape.of(pack.program))), Inputs(trace.geometry)
    found: dict[str, int] = {}
    for operation in Operation:
        for name, place, element in places(trace, operation):
            accusation = accused(trace, descent, accuser, inputs, place, element)
            found[name] = step_gas(chain, judge.is_wrong_call(claim, trace.root(), accusation), client.address)
    last, output = OUTPUT - 1, trace.output_ids[-1]
    choice = accuse_token(accuser, last, output, pack.limits.vocabulary - 1 - output)
    drawn = replace(claim, sampler=Sampler.SEEDED_BY_REQUEST, temperature_q16=ONE_Q16, top_p_q16=ONE_Q16, seed=SEED)
    for name, told in (("greedy", claim), ("seeded", drawn)):
        call = judge.is_output_wrong_call(told, trace.root(), choice)
        found[f"CHOICE {name}"] = step_gas(chain, call, client.address)
    return found


def places(trace: Trace, operation: Operation) -> list[tuple[str, Place, int]]:
    """A value at the last row, and the statistic where there is one."""
    group = {Operation.EMBEDDING: 0, Operation.OUTPUT_NORM: trace.geometry.groups - 1}.get(operation, 17)
    if operation is Operation.LOGITS:
        group = trace.geometry.groups - 1
    section = trace.geometry.section(group, operation)
    row = section.rows - 1
    slot = max(slot for slot in range(section.slots) if section.inside(row, slot))
    value = Place(group, operation, row, slot)
    result = [(operation.name, value, section.elements(row, slot) - 1)]
    if section.statistic:
        statistic = Place(group, operation, row, 0)
        result += [(f"{operation.name} statistic {i}", statistic, i) for i in (0, section.statistic - 1)]
    if operation is Operation.SOFTMAX:
        result.append((f"{operation.name} maximum", value, 0))
    return result


def accused(trace: Trace, descent: Descent, accuser: Accuser, inputs: Inputs, place: Place, element: int) -> Accusation:
    token = (*trace.input_ids, *trace.output_ids)[place.row] if place.operation is Operation.EMBEDDING else 0
    opened = tuple(accuser.open(wanted) for wanted in inputs.of(place, element, 0, token))
    own = Opening(trace.payload(place), descent.path(trace.geometry.node_of(place)))
    number = number_of(place.operation)
    return Accusation(place.group, number, place.row, place.slot, element, 0, own, opened)


def step_gas(chain: Chain, call: Call, sender: str) -> int:
    try:
        return chain.estimate_gas(call, sender)
    except ContractError as error:
        raise SystemExit(f"a step refuses: {error}") from None
