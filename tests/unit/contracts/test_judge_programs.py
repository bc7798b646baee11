"""What the judge accepts: llama programs within the limits, by computing their roots, and tables that are its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from market.hashing import ZERO32, keccak256, leaf_hash
from market.models import tables
from market.models.pack import load_pack
from market.verification.limits import beyond_judge
from market.verification.model_trees import ModelTrees
from market.verification.structs import Claim, LayerFormat, Shape
from market.verification.tree import fold_path
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.claims import Ground, deploy_judge, root_of
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import LARGEST, SHAPES, TINY, formats

LAYERS = formats(TINY)


@pytest.fixture
def judge(judge_chain: RevmChain) -> Iterator[Contract]:
    with judge_chain.undone():
        yield deploy_judge(judge_chain)


def accept(judge: Contract, shape: Shape, layers: tuple[LayerFormat, ...]) -> bytes:
    root: bytes = judge.acceptProgram(shape.values(), [layer.values() for layer in layers])
    return root


def refused(call: Any) -> tuple[str, dict[str, Any]]:
    with pytest.raises(Revert) as caught:
        call()
    return caught.value.name, caught.value.values


@pytest.mark.parametrize("shape", [*SHAPES, LARGEST], ids=lambda shape: f"{shape.layers} layers")
def test_accepted_program_has_the_root_that_packing_computes(judge: Contract, shape: Shape) -> None:
    root = root_of(shape, formats(shape))
    assert not judge.implementsProgram(root)
    assert accept(judge, shape, formats(shape)) == root
    event = judge.chain.logs[-1]
    assert event.name == "ProgramAccepted"
    assert event.values["programRoot"] == root
    assert judge.implementsProgram(root)
    assert tuple(judge.shapeOf(root).values()) == shape.values()


@pytest.mark.parametrize("pack", ["tiny_pack", "real_pack"])
def test_packs_program_and_tables_are_accepted(judge: Contract, pack: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(pack)
    loaded = load_pack(path)
    shape, layers = Shape.of(loaded.program), LayerFormat.all_of(loaded.program)
    assert accept(judge, shape, layers) == loaded.roots.program_root
    trees = ModelTrees(loaded.model, shape)
    assert trees.tables_root == loaded.roots.tables_root
    judge.acceptTables(trees.tables_root, trees.tables_path())
    assert judge.acceptsTables(loaded.roots.program_root, trees.tables_root)
    assert [event.name for event in judge.chain.logs] == ["TablesAccepted"]
    judge.acceptTables(trees.tables_root, trees.tables_path())
    assert judge.chain.logs == []


def test_program_is_accepted_once(judge: Contract) -> None:
    accept(judge, TINY, LAYERS)
    assert accept(judge, TINY, LAYERS) == root_of(TINY, LAYERS)
    assert judge.chain.logs == []


def test_any_other_number_gives_another_program(judge: Contract) -> None:
    """Every field of shape and layers is under the root: what the judge keeps is what the root says."""
    roots = {root_of(TINY, LAYERS)}
    changed = [
        replace(TINY, vocabulary=289), replace(TINY, context=511), replace(TINY, hidden=71),
        replace(TINY, feed_forward=161), replace(TINY, heads=4), replace(TINY, kv_heads=3),
        replace(TINY, head_size=32), replace(TINY, epsilon=1), replace(TINY, score_multiplier=1),
        replace(TINY, tied=False), replace(TINY, embedding_exponent=35, head_exponent=35),
        replace(TINY, tied=False, head_exponent=35),
    ]  # fmt: skip
    cases = [(shape, LAYERS) for shape in changed]
    for i, layer in enumerate(LAYERS):
        for name, value in vars(layer).items():
            other = replace(layer, **{name: value + 1 if value != 15 else 14})
            cases.append((TINY, (*LAYERS[:i], other, *LAYERS[i + 1 :])))
    for shape, layers in cases:
        root = accept(judge, shape, layers)
        assert root == root_of(shape, layers)
        roots.add(root)
    assert len(roots) == 1 + len(cases)


BEYOND = {
    "no vocabulary": replace(TINY, vocabulary=0),
    "no context": replace(TINY, context=0),
    "C": replace(TINY, context=4_097),
    "no width": replace(TINY, hidden=0),
    "D": replace(TINY, hidden=1_537),
    "no feed forward": replace(TINY, feed_forward=0),
    "F": replace(TINY, feed_forward=2_049),
    "no heads": replace(TINY, heads=0),
    "H": replace(TINY, heads=66),
    "no key heads": replace(TINY, kv_heads=0),
    "G does not divide H": replace(TINY, kv_heads=4),
    "no head size": replace(TINY, head_size=0),
    "S not of 16": replace(TINY, head_size=24),
    "S": replace(TINY, head_size=80),
    "H·S": replace(TINY, heads=34, kv_heads=2, head_size=64),
    "epsilon": replace(TINY, epsilon=0),
    "more layers": replace(TINY, layers=3),
    "fewer layers": replace(TINY, layers=1),
    "tied to another exponent": replace(TINY, head_exponent=33),
}


@pytest.mark.parametrize("shape", BEYOND.values(), ids=BEYOND)
def test_program_beyond_a_limit_is_refused(judge: Contract, shape: Shape) -> None:
    assert refused(lambda: accept(judge, shape, LAYERS)) == ("ProgramBeyondLimits", {})


@pytest.mark.parametrize("name", ["C", "D", "F", "H", "S", "H·S"])
def test_client_names_the_number_that_the_judge_refuses(name: str) -> None:
    told = beyond_judge(BEYOND[name])
    assert told is not None
    assert f"{name} = " in told
    assert beyond_judge(TINY) is None


@pytest.mark.parametrize("name", ["query_fraction", "key_fraction", "value_fraction"])
def test_fraction_bits_beyond_15_are_refused(judge: Contract, name: str) -> None:
    layers = (LAYERS[0], replace(LAYERS[1], **{name: 16}))
    assert refused(lambda: accept(judge, TINY, layers)) == ("ProgramBeyondLimits", {})


def test_program_with_scores_that_their_type_does_not_hold_is_refused(judge: Contract) -> None:
    """The largest dot product, times μ, shifted by fq + fk + 2, against int40."""
    layers = tuple(replace(layer, query_fraction=8, key_fraction=8) for layer in LAYERS)
    dot, shift = TINY.head_size * 32_767**2, 8 + 8 + 2
    most = (2**39 * 2**shift - 2 ** (shift - 1) - 1) // dot
    fits, beyond = (replace(TINY, score_multiplier=multiplier) for multiplier in (most, most + 1))
    assert accept(judge, fits, layers) == root_of(fits, layers)
    assert refused(lambda: accept(judge, beyond, layers)) == ("ProgramBeyondLimits", {})
    wider = replace(layers[1], query_fraction=7)
    assert refused(lambda: accept(judge, fits, (layers[0], wider))) == ("ProgramBeyondLimits", {})


@pytest.mark.parametrize("layers", [0, 255])
def test_count_of_layers_beyond_the_limits_is_refused(judge: Contract, layers: int) -> None:
    shape = replace(TINY, layers=layers)
    assert refused(lambda: accept(judge, shape, LAYERS[:1] * layers)) == ("ProgramBeyondLimits", {})


def test_limits_themselves_are_accepted(judge: Contract) -> None:
    shape = replace(LARGEST, layers=1)
    assert accept(judge, shape, formats(shape)) == root_of(shape, formats(shape))


def test_other_exp2_tables_are_refused(judge: Contract) -> None:
    path = [keccak256(b"rope")]
    name, values = refused(lambda: judge.acceptTables(ZERO32, path))
    assert (name, values["tablesRoot"]) == ("TablesMismatch", ZERO32)
    program = accept(judge, TINY, LAYERS)
    assert not judge.acceptsTables(program, ZERO32)


def test_tables_of_another_depth_are_not_a_programs_own(judge: Contract) -> None:
    """No leaf of theirs can be opened where the program's steps look for it, so what they tell would be safe."""
    program = accept(judge, TINY, LAYERS)
    depth = tables_depth(TINY)
    accepted = []
    for siblings in range(12):
        path = [keccak256(b"rope" + bytes([i])) for i in range(siblings)]
        root = fold_path(exp2_node(), 0, path)
        judge.acceptTables(root, path)
        assert not judge.acceptsTables(keccak256(b"no program"), root)
        if judge.acceptsTables(program, root):
            accepted.append(siblings + 1)
    assert accepted == [depth]


def exp2_node() -> bytes:
    high, low = (leaf_hash(tables.exp2(bits).astype(">i4").tobytes()) for bits in (8, 16))
    return keccak256(high + low)


def tables_depth(shape: Shape) -> int:
    leaves = 2 + 2 * -(-shape.context * (shape.head_size // 2) // 256)
    return (leaves - 1).bit_length()


def claim(**changes: Any) -> Claim:
    ground = Ground(TINY, LAYERS, (1, 2, 3), (4, 5))
    return replace(ground.claim(), **changes)


def test_nothing_is_judged_of_a_program_that_was_not_accepted(judge: Contract) -> None:
    root = root_of(TINY, LAYERS)
    for call in (
        lambda: judge.shapeOf(root),
        lambda: judge.rounds(claim().values()),
        lambda: judge.nodeAt(claim().values(), 0, 0),
    ):
        assert refused(call) == ("UnknownProgram", {"programRoot": root})


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 1), (1, 0), (512, 1), (1, 512), (2**32 - 1, 2**32 - 1)])
def test_lengths_that_no_trace_has_are_refused(judge: Contract, inputs: int, outputs: int) -> None:
    accept(judge, TINY, LAYERS)
    values = claim(input_tokens=inputs, output_tokens=outputs).values()
    expected = ("NoTrace", {"inputTokens": inputs, "outputTokens": outputs})
    assert refused(lambda: judge.rounds(values)) == expected
    assert refused(lambda: judge.nodeAt(values, 0, 0)) == expected
