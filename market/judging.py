"""Making a published model one that can be judged: its program and its tables are shown to the judge, once, by anybody.

Only then is it sold as OPTIMISTIC, and only then can an answer by it be disputed (docs/disputes.md, section 3).
"""

from __future__ import annotations

from market.chain import Call, Chain
from market.contracts import Contract
from market.hashing import ZERO32, keccak256, leaf_hash
from market.inference.model import Tables
from market.models.program import Program
from market.models.roots import table_payloads
from market.types import Model
from market.verification.structs import LayerFormat, Shape


class Acceptances(Contract):
    """What the judge of a deployment has been shown."""

    artefact_name = "Judge"

    def missing(self, roots: Model, program: Program, tables: Tables) -> list[Call]:
        """The calls that make the judge accept a model; none where it does.

        The judge refuses a program beyond the limits of docs/disputes.md (ContractError ProgramBeyondLimits when the
        call is sent).
        """
        calls: list[Call] = []
        if not self._read("implementsProgram", roots.program_root):
            layers = [layer.values() for layer in LayerFormat.all_of(program)]
            calls.append(self._write("acceptProgram", Shape.of(program).values(), layers))
        if not self._read("acceptsTables", roots.tables_root):
            calls.append(self._write("acceptTables", roots.tables_root, tables_path(tables)))
        return calls


def acceptances(chain: Chain, judge: str, roots: Model, program: Program, tables: Tables) -> list[Call]:
    """As `Acceptances.missing`, of the judge at that address."""
    return Acceptances(chain, judge).missing(roots, program, tables)


def tables_path(tables: Tables) -> list[bytes]:
    """Siblings of the node above leaves 0 and 1 of the tables' tree, lowest first: what `acceptTables` folds."""
    level = [leaf_hash(payload) for payload in table_payloads(tables)]
    level += [ZERO32] * ((1 << (len(level) - 1).bit_length()) - len(level))
    path: list[bytes] = []
    while len(level) > 2:
        level = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        path.append(level[1])
    return path
