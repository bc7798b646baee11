"""The program and the roots: leaves as docs/numerics.md writes them, and nothing but the llama program is accepted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from eth_abi.abi import decode

from market.hashing import keccak256, leaf_hash, merkle_root
from market.models import program, roots
from market.models.pack import Pack
from market.models.program import Kind


def test_program_read_from_its_json_is_the_same(tiny_pack: Pack) -> None:
    data = json.loads(tiny_pack.read_file("program.json"))
    read = program.read(data)
    assert program.to_json(read.operations) == data
    assert read.config == tiny_pack.model.config
    assert len(read.operations) == 1 + 17 * read.config.layers + 3


def test_leaf_of_an_operation_is_nine_abi_words(tiny_pack: Pack) -> None:
    scores = next(o for o in tiny_pack.program.operations if o.kind is Kind.SCORES)
    payload = scores.leaf_payload()
    assert len(payload) == 9 * 32
    assert decode(["uint256"] * 9, payload) == (9, 0, 6, 512, 0, 22, 0, 94548, 64)


def test_first_weight_leaf_of_an_operation_opens_its_first_row(tiny_pack: Pack) -> None:
    model, operations = tiny_pack.model, tiny_pack.program.operations
    specs = program.tensors(model.config, tied=True)
    leaves = list(roots.weight_leaves(model, specs))
    down = next(o for o in operations if o.kind is Kind.DOWN and o.layer == 1)
    number = next(i for i, spec in enumerate(specs) if spec.name == "layers.1.down")
    matrix, row = model.layers[1].down, 5
    payload = number.to_bytes(2, "big") + row.to_bytes(4, "big") + int(matrix.multiplier[row]).to_bytes(4, "big")
    payload += bytes(22) + matrix.weight[row].tobytes()
    assert leaves[down.first_weight_leaf + row] == keccak256(b"\0" + payload + bytes(-len(payload) % 32))
    assert roots.weights_root(model, specs) == merkle_root(leaves)


def test_gains_are_leaves_of_64_big_endian_words(tiny_pack: Pack) -> None:
    gain = np.arange(-40, 32, dtype=np.int32)  # 72 gains: one full leaf and one padded
    first, second = roots.gain_leaves(3, gain)
    header = (3).to_bytes(2, "big")
    values = b"".join(int(value).to_bytes(4, "big", signed=True) for value in gain)
    assert first == leaf_hash(header + (0).to_bytes(4, "big") + bytes(26) + values[:256])
    assert second == leaf_hash(header + (1).to_bytes(4, "big") + bytes(26) + values[256:] + bytes(256 - 32))


def test_tables_are_leaves_of_1024_bytes(tiny_pack: Pack) -> None:
    tables = tiny_pack.model.tables
    data = [np.ascontiguousarray(table, dtype=">i4").tobytes() for table in vars(tables).values()]
    chunks = [part[start : start + 1024] for part in data for start in range(0, len(part), 1024)]
    assert len(chunks) == 2 + 2 * (512 * 8 * 4 // 1024)
    assert roots.tables_root(tables) == merkle_root(leaf_hash(chunk) for chunk in chunks)


def drop_last(data: dict[str, Any]) -> None:
    data["operations"].pop()


def negative_layer(data: dict[str, Any]) -> None:
    data["operations"][3]["layer"] = -1


def boolean_rows(data: dict[str, Any]) -> None:
    data["operations"][3]["rows"] = True


def huge_rows(data: dict[str, Any]) -> None:
    data["operations"][0]["rows"] = 1 << 70


def unknown_kind(data: dict[str, Any]) -> None:
    data["operations"][3]["kind"] = "convolution"


def extra_field(data: dict[str, Any]) -> None:
    data["operations"][3]["note"] = 1


def other_weights(data: dict[str, Any]) -> None:
    data["operations"][3]["first_weight_leaf"] += 1


def other_epsilon_in_one_layer(data: dict[str, Any]) -> None:
    norms = [o for o in data["operations"] if o["kind"] == "attention_norm"]
    norms[1]["constant"] += 1


def repeated_layer(data: dict[str, Any]) -> None:
    data["operations"].insert(5, copy.deepcopy(data["operations"][5]))


def no_operations(data: dict[str, Any]) -> None:
    data["operations"] = []


def other_format(data: dict[str, Any]) -> None:
    data["format"] = 2


@pytest.mark.parametrize(
    "damage",
    [
        drop_last,
        negative_layer,
        boolean_rows,
        huge_rows,
        unknown_kind,
        extra_field,
        other_weights,
        other_epsilon_in_one_layer,
        repeated_layer,
        no_operations,
        other_format,
    ],
)
def test_read_of_a_damaged_program_is_refused(damage: Callable[[dict[str, Any]], None], tiny_pack: Pack) -> None:
    data = json.loads(tiny_pack.read_file("program.json"))
    program.read(data)
    damage(data)
    with pytest.raises(ValueError, match=r"program|operation"):
        program.read(data)
