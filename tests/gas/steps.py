"""What each step of a dispute costs as a transaction: for the shapes of SmolLM2-135M and two lengths of a text, and for
the largest programs that the judge accepts.

`python -m tests.gas.steps` prints the table. Payloads are random bytes, so hardly one of them is zero: dearer than what
a model gives. These are calls of the judge alone: the game adds its own storage and the claim's check.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from market.hashing import ZERO32
from market.verification.geometry import Node, Operation, Place, padded
from market.verification.inputs import Input, Inputs, TableLeaf, TokensWord, TraceLeaf, TraceRow, WeightLeaf
from market.verification.structs import Accusation, Opening, OutputAccusation, Shape
from tests.gas.anvil import AnvilChain, anvil
from tests.unit.contracts.abi import Contract
from tests.unit.contracts.artefacts import artefacts
from tests.unit.contracts.claims import Ground, deploy_judge
from tests.unit.contracts.step_cases import LARGEST as LARGEST_PROGRAM
from tests.unit.contracts.step_cases import SHAPES, formats

SMOLLM2 = SHAPES[3]
LENGTHS = {192: (128, 64), 2_048: (1_984, 64)}
LIMITS = {  # every number at its limit; heads times head size has one of its own, so there are two ways to reach it
    "32 heads of 64": Shape(2**32 - 1, 4_096, 1_536, 2_048, 254, 32, 32, 64, 2**40, 2**20, False, 40, 40),
    "64 heads of 32": Shape(2**32 - 1, 4_096, 1_536, 2_048, 254, 64, 64, 32, 2**40, 2**20, False, 40, 40),
}
REFUSED = {  # the larger models of the same family, for a text of 2,048 tokens
    "SmolLM2-360M": Shape(49_152, 2_048, 960, 2_560, 32, 15, 5, 64, 42_949, 47_274, True, 33, 33),
    "SmolLM2-1.7B": Shape(49_152, 2_048, 2_048, 8_192, 24, 32, 32, 64, 42_949, 47_274, True, 33, 33),
}
SENDER = "0x" + "44" * 20
LARGEST = 61  # i′ of every statistic, and the witness
_STATISTIC = (7, 2**43 - 12_345, 3, LARGEST)
Op = Operation


@dataclass(frozen=True)
class Cost:
    """Gas of one transaction.

    Attributes:
        calldata: bytes.
        executed: 21,000, calldata at 4 and 16 a byte, and execution.
        floor: 21,000 and calldata at 10 and 40 a byte (EIP-7623), whatever is executed.
    """

    calldata: int
    executed: int
    floor: int

    @property
    def gas(self) -> int:
        return max(self.executed, self.floor)


class Meter:
    """A judge on anvil who knows the program, and openings of random leaves of one claim."""

    def __init__(self, chain: AnvilChain, judge: Contract, shape: Shape, prompt: int, output: int) -> None:
        self._chain, self._judge, self._random = chain, judge, Random(prompt + output)
        ids = [self._random.randrange(shape.vocabulary) for _ in range(prompt + output)]
        self.ground = Ground(shape, formats(shape), ids[:prompt], ids[prompt:])
        self._inputs = Inputs(self.ground.geometry)

    def step(self, place: Place, element: int) -> Cost:
        return self._send("isWrong", self._accusation(place, element))

    def floor(self, place: Place, element: int) -> int:
        """The least that a step's transaction costs, for its calldata alone (EIP-7623): of any program, accepted or
        not.
        """
        return self._floor(self._data("isWrong", self._accusation(place, element)))

    def _accusation(self, place: Place, element: int) -> Accusation:
        token = [*self.ground.input_ids, *self.ground.output_ids][place.row]
        wanted = self._inputs.of(place, element, LARGEST, token)
        self._put(TraceLeaf(place))
        for needed in wanted:
            self._put(needed)
        opened = tuple(self._open(needed) for needed in wanted)
        return self.ground.accuse(place, element, opened, LARGEST)

    def output(self) -> Cost:
        """The last position, a seeded draw, ids far from each other."""
        at, position = self.ground, len(self.ground.output_ids) - 1
        at.sampling = (1, 45_875, 0, 65_536, self._random.randbytes(32))
        ids = (at.output_ids[position], (at.output_ids[position] + 20_000) % at.shape.vocabulary)
        leaves = [TraceLeaf(Place(at.geometry.groups - 1, Op.LOGITS, position, token // 128)) for token in ids]
        for leaf in leaves:
            self._put(leaf)
        opened = [self._open(leaf) for leaf in leaves]
        word = self._open(TokensWord(True, position))
        return self._send("isOutputWrong", OutputAccusation(position, *ids, word, *opened))

    def _send(self, name: str, accusation: Accusation | OutputAccusation) -> Cost:
        data = self._data(name, accusation)
        self._chain.run_call(SENDER, self._judge.address, data, static=False)
        return Cost(len(data), self._chain.gas_used, self._floor(data))

    def _data(self, name: str, accusation: Accusation | OutputAccusation) -> bytes:
        at = self.ground
        data: bytes = self._judge.encode(name, at.claim().values(), at.trace.root, accusation.values())
        return data

    @staticmethod
    def _floor(data: bytes) -> int:
        return 21_000 + 10 * sum(4 if byte else 1 for byte in data)

    def _put(self, wanted: Input) -> None:
        at = self.ground
        match wanted:
            case TraceLeaf(place):
                at.put_raw(place, self._payload(place))
            case TraceRow(group, operation, row):
                section = at.geometry.section(group, operation)
                for slot in range(1 << section.slot_bits):
                    place = Place(group, operation, row, slot)
                    if slot < section.slots:
                        at.put_raw(place, self._payload(place))
                    else:
                        at.trace.fix(at.geometry.node_of(place), ZERO32)
            case WeightLeaf(leaf):
                at.put_weight_leaf(leaf, self._weights(leaf))
            case TableLeaf(leaf):
                at.tables.put(Node(at.leaves.table_depth, leaf), self._random.randbytes(1_024))

    def _payload(self, place: Place) -> bytes:
        section = self.ground.geometry.section(place.group, place.operation)
        used = section.elements(place.row, place.slot) * section.element_size(place.slot)
        payload = self._random.randbytes(used)
        if section.statistic and place.slot == 0:
            payload = b"".join(field.to_bytes(8, "big") for field in _STATISTIC[-section.statistic :])
        elif place.operation is Op.SOFTMAX:
            payload = (2**33).to_bytes(8, "big") + LARGEST.to_bytes(8, "big") + payload[16:]
        return payload.ljust(padded(used), b"\0")

    def _weights(self, leaf: int) -> bytes:
        specs = self.ground.leaves.specs()
        number = max(i for i, spec in enumerate(specs) if spec.first_leaf <= leaf)
        spec, row = specs[number], leaf - specs[number].first_leaf
        size = 256 if spec.role == "gain" else spec.columns
        header = number.to_bytes(2, "big") + row.to_bytes(4, "big") + self._random.randbytes(4) + bytes(22)
        return header + self._random.randbytes(size).ljust(padded(size), b"\0")

    def _open(self, wanted: Input) -> Opening:
        at = self.ground
        match wanted:
            case TraceLeaf(place):
                return at.open(place)
            case TraceRow(group, operation, row):
                return at.open_row(group, operation, row)
            case WeightLeaf(leaf):
                return at.weights.open(Node(at.leaves.depth, leaf))
            case TableLeaf(leaf):
                return at.tables.open(Node(at.leaves.table_depth, leaf))
            case TokensWord(output, index):
                return at.open_ids(index + (len(at.input_ids) if output else 0))


def accused(ground: Ground) -> dict[str, tuple[Place, int]]:
    """A step of each kind, at the last position of the last layer."""
    geometry, layers = ground.geometry, ground.shape.layers
    last = geometry.positions - 1
    block = last // 64
    full = ((ground.shape.heads - 1) << geometry.block_bits) + max(block - 1, 0)  # the last block with 64 positions

    def at(operation: Operation, slot: int | None = None, element: int | None = None) -> tuple[Place, int]:
        """The last row; the last slot and element of it where none is given."""
        group = {Op.EMBEDDING: 0, Op.OUTPUT_NORM: layers + 1, Op.LOGITS: layers + 1}.get(operation, layers)
        section = geometry.section(group, operation)
        row = section.rows - 1
        slot = section.slots - 1 if slot is None else slot
        element = section.elements(row, slot) - 1 if element is None else element
        return Place(group, operation, row, slot), element

    return {
        "embedding": at(Op.EMBEDDING),
        "norm, s or v": at(Op.ATTENTION_NORM, 0, 1),
        "norm, s′ or i′": at(Op.ATTENTION_NORM, 0, 2),
        "norm, value": at(Op.ATTENTION_NORM),
        "query": at(Op.QUERY),
        "key": at(Op.KEY),
        "value": at(Op.VALUE),
        "rotate query": at(Op.ROTATE_QUERY),
        "rotate key": at(Op.ROTATE_KEY),
        "scores": at(Op.SCORES, full),
        "softmax, maximum": at(Op.SOFTMAX, element=0),
        "softmax, sum": at(Op.SOFTMAX, element=2 + max(block - 1, 0)),
        "mix sum": at(Op.MIX_SUM, full),
        "mix": at(Op.MIX),
        "quantise mix, statistic": at(Op.QUANTISE_MIX, 0, 0),
        "quantise mix, value": at(Op.QUANTISE_MIX),
        "attention output": at(Op.ATTENTION_OUTPUT),
        "gate or up": at(Op.UP),
        "activation, statistic": at(Op.ACTIVATION, 0, 0),
        "activation, value": at(Op.ACTIVATION),
        "down": at(Op.DOWN),
        "output norm, s or v": at(Op.OUTPUT_NORM, 0, 1),
        "logits": at(Op.LOGITS),
    }


def steps_of(meter: Meter) -> dict[str, Cost]:
    """Step → cost."""
    costs = {name: meter.step(place, element) for name, (place, element) in accused(meter.ground).items()}
    return costs | {"output, seeded": meter.output()}


def measure() -> dict[str, dict[str, Cost]]:
    """What is measured → step → cost: the demo's model at two lengths, and the largest programs at the longest text.
    Starts and stops anvil.
    """
    costs: dict[str, dict[str, Cost]] = {}
    with anvil() as url:
        chain = AnvilChain(list(artefacts().values()), url)
        judge = deploy_judge(chain)
        for shape in (SMOLLM2, *LIMITS.values()):
            judge.acceptProgram(shape.values(), [layer.values() for layer in formats(shape)], sender=SENDER)
        for tokens, lengths in LENGTHS.items():
            costs[f"{tokens} tokens"] = steps_of(Meter(chain, judge, SMOLLM2, *lengths))
        for name, shape in LIMITS.items():
            costs[name] = steps_of(Meter(chain, judge, shape, shape.context // 2, shape.context // 2))
    return costs


def floors() -> dict[str, dict[str, int]]:
    """Model that the judge refuses → step → what its calldata alone would cost."""
    with anvil() as url:
        chain = AnvilChain(list(artefacts().values()), url)
        judge = deploy_judge(chain)
        meters = {name: Meter(chain, judge, shape, *LENGTHS[2_048]) for name, shape in REFUSED.items()}
        return {
            name: {step: meter.floor(place, element) for step, (place, element) in accused(meter.ground).items()}
            for name, meter in meters.items()
        }


def acceptance() -> dict[str, int]:
    """Gas of accepting SmolLM2's program, and the largest program there can be."""
    with anvil() as url:
        chain = AnvilChain(list(artefacts().values()), url)
        judge = deploy_judge(chain)
        gas = {}
        for name, shape in (("SmolLM2-135M", SMOLLM2), ("254 layers", LARGEST_PROGRAM)):
            judge.acceptProgram(shape.values(), [layer.values() for layer in formats(shape)], sender=SENDER)
            gas[name] = chain.gas_used
    return gas


def main() -> None:
    for name, gas in acceptance().items():
        print(f"acceptProgram, {name}: {gas:,}")
    for what, least in floors().items():
        print(f"{what}, calldata alone: " + ", ".join(f"{step} {gas:,}" for step, gas in least.items()))
    for what, costs in measure().items():
        print(f"{what:26} calldata  executed     floor       gas")
        for name, cost in costs.items():
            print(f"{name:26}{cost.calldata:>9,}{cost.executed:>10,}{cost.floor:>10,}{cost.gas:>10,}")


if __name__ == "__main__":
    main()
