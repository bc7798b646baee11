"""Whole traces before the judge: who lies is found by the way down, and the EVM says whether the accusation holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from market.hashing import leaf_hash
from market.inference.reference import greedy
from market.models.pack import Pack
from market.verification.accusation import Accuser, accuse_token
from market.verification.challenger import Challenger
from market.verification.descent import Descent, Leaf
from market.verification.geometry import Operation, Place
from market.verification.products import Products
from market.verification.structs import Accusation, OutputAccusation
from market.verification.trace import Trace
from market.verification.tree import fold_path
from tests.liar import find, lie
from tests.unit.contracts.abi import Contract
from tests.unit.market.verification.setting import Setting, ids

PROMPT, ANSWER = 67, 6  # two blocks of positions


def answered(pack: Pack, prompt: int = PROMPT, answer: int = ANSWER) -> Setting:
    """What a small model answers, by the reference."""
    asked = ids("input", prompt, pack.model.config.vocabulary)
    return Setting(pack, asked, tuple(greedy(pack.model, asked, answer, ())))


@dataclass(frozen=True)
class Trial:
    """One answer, and a judge who knows its program."""

    judge: Contract
    base: Setting
    products: Products = field(default_factory=Products)

    @classmethod
    def of(cls, judge: Contract, base: Setting, products: Products | None = None) -> Trial:
        """Tells the judge of the program and the tables, as a deployment does."""
        judge.acceptProgram(base.shape.values(), [layer.values() for layer in base.layers])
        judge.acceptTables(base.trees.tables_root, base.trees.tables_path())
        return cls(judge, base, products or Products())

    def finds_wrong(self, root: bytes, accusation: Accusation) -> bool:
        """What the contract says, and the step in Python too."""
        found: bool = self.judge.isWrong(self.base.claim().values(), root, accusation.values())
        assert self.base.step.is_wrong(self.base.claim(), root, accusation) == found
        return found

    def finds_output_wrong(self, root: bytes, accusation: OutputAccusation, **sampling: Any) -> bool:
        """The same of an id. ``sampling``: what the claim says of it, if anything."""
        claim = self.base.claim(**sampling)
        found: bool = self.judge.isOutputWrong(claim.values(), root, accusation.values())
        assert self.base.step.is_output_wrong(claim, root, accusation) == found
        return found

    def accuser(self) -> Accuser:
        """Of the honest trace."""
        return Accuser(Descent(self.base.honest, self.base.honest.root()), self.base.trees)

    def trace(self, **changes: Any) -> Trace:
        """Of the answer, by another model, of another text or with a hook."""
        base = self.base
        arguments: dict[str, Any] = {
            "model": base.model,
            "input_ids": base.input_ids,
            "output_ids": base.output_ids,
            "products": self.products,
        }
        return Trace(shape=base.shape, **(arguments | changes))

    def lie(self, place: Place, element: int, delta: int, continued: bool) -> Trace:
        base = self.base
        texts = base.input_ids, base.output_ids
        return lie(base.model, base.shape, *texts, place, element, delta, continued, self.products)

    def convict(self, liar: Trace) -> tuple[Place, int]:
        """Finds the first wrong element and has it judged: wrong in the liar's trace, right in the honest one."""
        honest, root = self.base.honest, liar.root()
        descent, move, reveals = find(honest, liar)
        assert isinstance(move, Leaf), move
        assert reveals <= honest.geometry.rounds() + 1
        payload = liar.payload(move.place)
        accusation = Accuser(descent, self.base.trees).accuse(move.place, payload)
        assert fold_path(leaf_hash(payload), move.node.index, accusation.accused.path) == root
        assert self.finds_wrong(root, accusation), (move.place, accusation.element)
        innocent = self.base.accuse_anyway(move.place, accusation.element, accusation.witness)
        assert not self.finds_wrong(honest.root(), innocent), (move.place, accusation.element)
        return move.place, accusation.element

    def convict_of_one(self, place: Place, element: int, delta: int, continued: bool) -> None:
        """One element is changed, and that one is proved wrong."""
        proved = self.convict(self.lie(place, element, delta, continued))
        assert proved == (place, element), (place, element, delta, continued)

    def answering(self, answer: tuple[int, ...]) -> Trial:
        """The same prompt with another answer, of which the trace is right."""
        return Trial(self.judge, Setting(self.base.pack, self.base.input_ids, answer), self.products)

    def wrong_output(self, **sampling: Any) -> tuple[int, int, int] | None:
        """What a challenger finds in the answer: position, the id that was given, and the right one."""
        base = self.base
        return Challenger(base.claim(**sampling), base.honest, base.trees, base.step).wrong_output()

    def convict_of_output(self, answer: tuple[int, ...], position: int, **sampling: Any) -> None:
        """An answer whose ids depart from the model's at a position is proved wrong there; the model's own is not."""
        assert self.wrong_output(**sampling) is None
        liar, own, right = self.answering(answer), answer[position], self.base.output_ids[position]
        assert liar.wrong_output(**sampling) == (position, own, right)
        accusation = accuse_token(liar.accuser(), position, own, right)
        assert liar.finds_output_wrong(liar.base.honest.root(), accusation, **sampling)
        innocent = accuse_token(self.accuser(), position, right, own)
        assert not self.finds_output_wrong(self.base.honest.root(), innocent, **sampling)

    def element(self, rng: random.Random, operation: Operation) -> tuple[Place, int]:
        """Any of an operation, in any group that has it: statistics as often as values, ends more often."""
        geometry = self.base.geometry
        group = rng.choice([g for g in range(geometry.groups) if operation in geometry.operations(g)])
        section = geometry.section(group, operation)
        place = self.base.random_place(rng, group, operation)
        if section.statistic and rng.random() < 0.5:
            place = place._replace(slot=0)
        count = section.elements(place.row, place.slot)
        return place, rng.choice((0, count - 1, rng.randrange(count), rng.randrange(count)))


def small(rng: random.Random) -> int:
    """By how much an element is wrong: one, more often than not."""
    return rng.choice((-1, 1)) << rng.choice((0, 0, 0, rng.randrange(6)))
