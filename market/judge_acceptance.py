"""What the judge must be told once before answers of a model can be disputed. Anyone may."""

from __future__ import annotations

from market.chain import Call
from market.dispute_contracts import Judge
from market.models.pack import Pack
from market.verification.model_trees import ModelTrees
from market.verification.structs import LayerFormat, Shape


def acceptance(judge: Judge, pack: Pack) -> list[tuple[str, Call]]:
    """Name and call of each thing that it does not know yet: the program, the tables. Empty where it knows both."""
    missing: list[tuple[str, Call]] = []
    if not judge.implements_program(pack.roots.program_root):
        call = judge.accept_program(Shape.of(pack.program), LayerFormat.all_of(pack.program))
        missing.append(("program", call))
    if not judge.accepts_tables(pack.roots.tables_root):
        trees = ModelTrees(pack.model, Shape.of(pack.program))
        missing.append(("tables", judge.accept_tables(pack.roots.tables_root, trees.tables_path())))
    return missing
