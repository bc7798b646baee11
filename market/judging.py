"""Making a published model one that can be judged: its program and its tables are shown to the judge, once, by anybody.

Only then is it sold as OPTIMISTIC, and only then can an answer by it be disputed (docs/disputes.md, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from market.chain import Call, Chain
from market.dispute_contracts import Judge
from market.errors import MarketError
from market.models.pack import Pack
from market.verification.limits import beyond_judge
from market.verification.model_trees import ModelTrees
from market.verification.structs import LayerFormat, Shape


def names_of(missing: Sequence[Call]) -> str:
    """What the judge lacks, in words: of the calls that `acceptances` gave."""
    return " and ".join(call.label.rpartition(".accept")[2].lower() for call in missing)


def require_judgeable(pack: Pack) -> None:
    """
    Raises:
        MarketError: code ProgramBeyondLimits: the judge would refuse the model's program for its size.
    """
    beyond = beyond_judge(Shape.of(pack.program))
    if beyond is not None:
        raise MarketError(
            f"Nobody can judge {pack.name}: {beyond}. A step of a dispute about a larger model would take more than "
            "500,000 gas, because it opens whole rows. Nothing was sent.",
            hint="Sell it in other modes. docs/disputes.md, section 2, and ADR 34 say what would lift this.",
            code="ProgramBeyondLimits",
            model_id="0x" + pack.model_id.hex(),
        )


def acceptances(chain: Chain, judge: str, pack: Pack) -> list[Call]:
    """The calls that make the judge at that address accept a model; none where it does.

    The judge refuses a program beyond the limits of docs/disputes.md: ContractError ProgramBeyondLimits when the call
    is sent.
    """
    contract, shape = Judge(chain, judge), Shape.of(pack.program)
    calls: list[Call] = []
    if not contract.implements_program(pack.roots.program_root):
        calls.append(contract.accept_program(shape, LayerFormat.all_of(pack.program)))
    if not contract.accepts_tables(pack.roots.program_root, pack.roots.tables_root):
        calls.append(contract.accept_tables(pack.roots.tables_root, ModelTrees(pack.model, shape).tables_path()))
    return calls
