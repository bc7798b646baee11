"""Whatever may be sold as OPTIMISTIC can be judged: no answer to a request that `canJudge` lets pass is safe by its
sampler.
"""

from __future__ import annotations

from itertools import product

from market.hashing import ZERO32, keccak256, leaf_hash, pack_stop_tokens, tokens_root
from market.models import tables
from market.types import Model, Request
from market.verification.tree import fold_path
from tests.unit.contracts.abi import Contract, Revert
from tests.unit.contracts.claims import Court
from tests.unit.contracts.revm import RevmChain
from tests.unit.contracts.step_cases import TINY
from tests.unit.contracts.test_steps_choice import Choosing, finds_wrong
from tests.unit.contracts.world import World

SAMPLERS = [0, 1, 2, 3]
TEMPERATURES = [0, 1, 65_536]
TOP_KS = [0, 1, 50, TINY.vocabulary, 2**32 - 1]
TOP_PS = [0, 1, 65_535, 65_536]
SEED = keccak256(b"seed")
SIBLINGS = [keccak256(b"rotary" + bytes([i])) for i in range(5)]  # 2 + 2 · 16 leaves are 6 levels
Fields = tuple[int, int, int, int]


def judged(disputes: Contract, model: Model, fields: Fields) -> bool:
    request = Request(model.model_id, tokens_root([1, 2, 3]), 3, 1, pack_stop_tokens([]), *fields, SEED, ZERO32)
    answer: bool = disputes.canJudge(model.values(), request.values())
    return answer


def decides(court: Court, at: Choosing) -> bool:
    """Whether the judge says that the id with the far smaller logit is wrong."""
    try:
        return finds_wrong(court, at, at.accuse(100, 7))
    except Revert as error:
        if error.name != "SamplerWithoutStep":
            raise
        return False


def test_sampler_that_is_sold_has_a_step(world: World) -> None:
    assert isinstance(world.chain, RevmChain)
    court = Court(world.chain)
    disputes = world.deploy("Disputes", world.vault.address, court.judge.address, 3600, 1, 1)
    high, low = (leaf_hash(tables.exp2(bits).astype(">i4").tobytes()) for bits in (8, 16))
    tables_root = fold_path(keccak256(high + low), 0, SIBLINGS)
    court.judge.acceptTables(tables_root, SIBLINGS)
    sold, safe = [], []
    for fields in product(SAMPLERS, TEMPERATURES, TOP_KS, TOP_PS):
        at = Choosing(0, [100], (*fields, SEED))
        at.put(100, -(2**31))
        at.put(7, 2**31 - 1)  # beats the other whatever the noise is
        court.know(at.ground.shape, at.ground.layers, at.ground.program_root)
        if judged(disputes, Model(ZERO32, at.ground.program_root, tables_root, ZERO32, ZERO32), fields):
            sold.append(fields)
            safe += [] if decides(court, at) else [fields]
    assert len(sold) > 10
    assert safe == []
