"""tests/vectors/trace.json: worked examples of trees, leaves and accusations for whoever reads docs/disputes.md.

`python -m tests.unit.market.verification.vectors` writes the file; `--check` says whether it is stale. Everything is
about one receipt of the tiny model, and about the geometry of some others. Structs have the field names of
contracts/interfaces/Trace.sol; hashes and payloads are hex.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from market.models.pack import Pack
from market.models.tiny import write_tiny_pack
from market.verification.accusation import Accuser, accuse_output, accuse_token
from market.verification.descent import Descent, Leaf
from market.verification.geometry import Geometry, Node, Operation, Place, number_of
from market.verification.inputs import is_maximum
from market.verification.structs import Shape, TraceStruct
from tests.liar import find, lie
from tests.unit.market.verification.setting import Setting, setting

FILE = Path(__file__).parents[3] / "vectors" / "trace.json"
SMOLLM2 = Shape(49152, 2048, 576, 1536, 30, 9, 3, 64, 42949, 47274, True, 30, 30)
LENGTHS = ((1, 1), (2, 63), (64, 1), (65, 64), (128, 64), (300, 212))


def to_json(value: Any) -> Any:
    """A struct with Solidity's names."""
    if isinstance(value, TraceStruct):
        return {_camel(field.name): to_json(getattr(value, field.name)) for field in fields(value)}  # type: ignore[arg-type]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return [to_json(item) for item in value] if isinstance(value, tuple | list) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def cases() -> dict[str, Any]:
    """The whole content of the file."""
    with tempfile.TemporaryDirectory() as folder:
        return _cases(write_tiny_pack(Path(folder) / "pack"))


def _cases(pack: Pack) -> dict[str, Any]:
    base = setting(pack)
    honest = base.honest
    return {
        "shape": to_json(base.shape),
        "layers": to_json(base.layers),
        "claim": to_json(base.claim()),
        "inputIds": list(base.input_ids),
        "outputIds": list(base.output_ids),
        "root": to_json(honest.root()),
        "reveals": [
            {"depth": node.depth, "index": node.index, "hashes": to_json(honest.reveal(node))} for node in _way(base)
        ],
        "tablesPath": to_json(base.trees.tables_path()),
        "geometries": [
            _geometry(shape, *lengths)
            for shape in (base.shape, SMOLLM2)
            for lengths in LENGTHS
            if sum(lengths) <= shape.context
        ],
        "leaves": [_leaf(base, place) for place in _leaves(base)],
        "accusations": [case for place, element in _elements(base) for case in _accusations(base, place, element)],
        "outputs": [_output(base, *fields) for fields in ((0, 0), (1, 0), (1, 65536), (1, 2**20))],
    }


def _way(base: Setting) -> list[Node]:
    """Nodes that are revealed on the way to a SCORES leaf."""
    geometry, node = base.geometry, Node(0, 0)
    leaf = geometry.node_of(Place(2, Operation.SCORES, 70, 5))
    way = []
    while node != leaf:
        way.append(node)
        depth = node.depth + geometry.node_at(node).levels
        node = Node(depth, leaf.index >> (leaf.depth - depth))
    return way


def _geometry(shape: Shape, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """nodes: [depth, index, levels, payloadBytes, inside]."""
    geometry, rng = Geometry(shape, input_tokens, output_tokens), random.Random(f"{shape}{input_tokens}{output_tokens}")
    nodes: list[Node] = [Node(0, 0)]
    for depth in range(1, geometry.group_bits + 1):
        nodes += [Node(depth, 0), Node(depth, (1 << depth) - 1)]
    for group in {0, 1, geometry.groups - 2, geometry.groups - 1}:
        top = Node(geometry.group_bits, group)
        nodes += [top.child(levels, (1 << levels) - 1) for levels in range(1, 6)]
        for operation in geometry.operations(group):
            section, above = geometry.section(group, operation), geometry.section_node(group, operation)
            nodes += [above, above.child(section.bits, 0), above.child(section.bits, (1 << section.bits) - 1)]
            for _ in range(4):
                levels = rng.randint(0, section.bits)
                nodes.append(above.child(levels, rng.randrange(1 << levels)))
            last = section.rows - 1
            for slot in {0, section.slots - 1, rng.randrange(section.slots)}:
                nodes.append(above.child(section.bits, section.leaf(last, slot)))
    return {
        "shape": to_json(shape),
        "inputTokens": input_tokens,
        "outputTokens": output_tokens,
        "rounds": geometry.rounds(),
        "nodes": [[*node, *geometry.node_at(node)] for node in sorted(set(nodes))],
    }


def _leaves(base: Setting) -> list[Place]:
    """The first and the last leaf of each section, and one between."""
    places, rng = [], random.Random("leaves")
    for group, operation in base.sections():
        section = base.geometry.section(group, operation)
        first, last = Place(group, operation, 0, 0), Place(group, operation, section.rows - 1, section.slots - 1)
        places += [first, base.random_place(rng, group, operation), last] if group != 1 else []
    return [p for p in dict.fromkeys(places) if base.geometry.section(p.group, p.operation).inside(p.row, p.slot)]


def _leaf(base: Setting, place: Place) -> dict[str, Any]:
    node = base.geometry.node_of(place)
    return {
        **_named(place),
        "depth": node.depth,
        "index": node.index,
        "payload": to_json(base.honest.payload(place)),
        "hash": to_json(base.honest.hash(node)),
    }


def _named(place: Place) -> dict[str, Any]:
    return {
        "name": place.operation.name,
        "group": place.group,
        "operation": number_of(place.operation),
        "row": place.row,
        "slot": place.slot,
    }


def _elements(base: Setting) -> list[tuple[Place, int]]:
    """One element of every kind that an operation has, in the groups 0, 2 and 3."""
    rng = random.Random("elements")
    chosen: list[tuple[Place, int]] = []
    for group, operation in base.sections():
        if group == 1:
            continue
        section = base.geometry.section(group, operation)
        row = rng.randrange(section.rows // 2, section.rows)
        if section.statistic:
            chosen += [(Place(group, operation, row, 0), element) for element in range(section.statistic)]
        place = Place(group, operation, row, 0)
        while place.slot == 0:
            place = base.random_place(rng, group, operation)
        elements = section.elements(place.row, place.slot)
        if operation is Operation.SOFTMAX:
            chosen += [(Place(group, operation, 70, 3), element) for element in range(4)]
        elif operation is Operation.MIX_SUM:
            chosen += [(Place(group, operation, 70, slot), 5) for slot in (4, 5)]
        else:
            chosen.append((place, rng.randrange(elements)))
    padded = Place(2, Operation.SCORES, 10, 2)
    return [*chosen, (padded, base.geometry.section(2, Operation.SCORES).elements(10, 2))]


def _accusations(base: Setting, place: Place, element: int) -> list[dict[str, Any]]:
    """The honest element and a wrong one."""
    geometry, honest = base.geometry, base.honest
    padding = element == geometry.section(place.group, place.operation).elements(place.row, place.slot)
    delta = 3 if padding or place.row % 2 else -1
    liar = lie(base.model, base.shape, base.input_ids, base.output_ids, place, element, delta, continued=False)
    descent, move, _ = find(honest, liar)
    if not isinstance(move, Leaf) or move.place != place:
        raise ValueError(f"the way does not lead to {place}")
    wrong = Accuser(descent, base.trees).accuse(place, liar.payload(place))
    right = base.accuse_anyway(place, element, wrong.witness)
    maximum = is_maximum(place.operation, place.slot, element)
    name = f"{place.operation.name} {'padding' if padding else 'maximum' if maximum else 'value'}"
    return [
        {"name": name, "root": to_json(honest.root()), "wrong": False, "accusation": to_json(right)},
        {"name": name, "root": to_json(liar.root()), "wrong": True, "accusation": to_json(wrong)},
    ]


def _output(base: Setting, sampler: int, temperature: int) -> dict[str, Any]:
    """The ids of the setting are random, so one is beaten, and some other id beats it not."""
    claim, root = base.claim(sampler, temperature, b"\x07" * 32), base.honest.root()
    accuser = Accuser(Descent(base.honest, root), base.trees)
    accusation = accuse_output(accuser, claim)
    if accusation is None:
        raise ValueError("the ids happen to be right")
    position, output = accusation.position, accusation.output
    rivals = (
        accuse_token(accuser, position, output, token) for token in range(base.shape.vocabulary) if token != output
    )
    loser = next(rival for rival in rivals if not base.step.is_output_wrong(claim, root, rival))
    return {
        "claim": to_json(claim),
        "root": to_json(root),
        "accusations": [
            {"wrong": base.step.is_output_wrong(claim, root, one), "accusation": to_json(one)}
            for one in (accusation, loser)
        ],
    }


def text() -> str:
    """The file, an entry of a list a line."""
    content = cases()
    lines = []
    for name, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            body = "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value) + "\n]"
        else:
            body = json.dumps(value, separators=(",", ":"))
        lines.append(f'"{name}":{body}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(0 if FILE.read_text(encoding="utf-8") == text() else f"{FILE} is stale: run this without --check")
    FILE.write_text(text(), encoding="utf-8")
