"""Honest accusations, taken apart and put together wrong: what a challenger can try against an honest trace.

Other places, elements and witnesses than the openings were made for, openings of other accusations, changed, cut and
swapped, inner nodes for leaves and numbers that would wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from market.verification.structs import Accusation, Opening

NEAR = (-64, -2, -1, 1, 2, 64)


class Twister:
    """Twists any of these accusations, with parts of the others."""

    def __init__(self, honest: Sequence[Accusation]) -> None:
        self.honest = honest
        self._openings = [opening for a in honest for opening in (a.accused, *a.inputs)]
        self._ways = (
            *(self._number, self._number),
            *(self._place, self._opening, self._order, self._payload),
        )

    def twisted(self, random: Random) -> Accusation:
        """One of them, twisted up to three times."""
        accusation = random.choice(self.honest)
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            accusation = random.choice(self._ways)(random, accusation)
        return accusation

    def _number(self, random: Random, accusation: Accusation) -> Accusation:
        """Biased to what a step reads without looking: element and witness."""
        field = random.choice(["group", "operation", "row", "slot", *["element", "witness"] * 3])
        before: int = getattr(accusation, field)
        number = random.choice([before + random.choice(NEAR), random.randrange(72), 2**32 - 1])
        return replace(accusation, **{field: max(number, 0) % 2**32})

    def _place(self, random: Random, accusation: Accusation) -> Accusation:
        """The openings of one accusation, said to be about the leaf of another one."""
        other = random.choice(self.honest)
        moved = replace(other, inputs=accusation.inputs, witness=accusation.witness)
        return random.choice(
            [moved, replace(moved, accused=accusation.accused), replace(accusation, accused=other.accused)]
        )

    def _opening(self, random: Random, accusation: Accusation) -> Accusation:
        inputs = list(accusation.inputs)
        if inputs:
            inputs[random.randrange(len(inputs))] = random.choice(self._openings)
        return replace(accusation, inputs=tuple(inputs))

    def _order(self, random: Random, accusation: Accusation) -> Accusation:
        inputs = [*accusation.inputs, accusation.accused][: random.randint(0, 4)]
        random.shuffle(inputs)
        return replace(accusation, inputs=tuple(inputs))

    def _payload(self, random: Random, accusation: Accusation) -> Accusation:
        openings = [accusation.accused, *accusation.inputs]
        i = random.randrange(len(openings))
        payload, path = bytearray(openings[i].payload), list(openings[i].path)
        how = random.randrange(4)
        if how == 0 and payload:
            payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
        elif how == 1:
            payload = payload[32:] if random.random() < 0.5 else payload[:-32]
        elif how == 2 and len(path) > 1:  # the level below as a payload
            payload, path = bytearray(path[0] + path[1]), path[2:]
        elif path:
            path.pop(random.randrange(len(path)))
        openings[i] = Opening(bytes(payload), tuple(path))
        return replace(accusation, accused=openings[0], inputs=tuple(openings[1:]))
