"""A challenger's way down: what the provider revealed, which node to ask for next, and paths in the *provider's* tree.

Wherever a revealed hash equals the honest trace's, the whole subtree is the honest one. So the provider's tree is
known from its root to the first wrong leaf (the leftmost in tree order, whose inputs are all honest) and wherever it is
honest; nothing more is needed for an accusation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.verification.geometry import ROOT, Node, Place
from market.verification.structs import Opening
from market.verification.trace import Trace
from market.verification.tree import fold


class RevealError(ValueError):
    """Revealed hashes that do not fold to the node's, or of a node that nobody revealed."""


@dataclass(frozen=True)
class Agrees:
    """The provider's root is the honest one: nothing below it is wrong."""


@dataclass(frozen=True)
class Ask:
    """Request this node; ``path`` leads to ``answered``, the node that was answered above it."""

    node: Node
    hash: bytes
    path: tuple[bytes, ...]
    answered: Node


@dataclass(frozen=True)
class Outside:
    """This node is outside the program and not EMPTY: a fault by itself (``proveOutside``)."""

    node: Node
    hash: bytes
    path: tuple[bytes, ...]
    answered: Node


@dataclass(frozen=True)
class Leaf:
    """The first wrong leaf. Its payload has to be requested (node, hash and path as in ``Ask``), then accused."""

    place: Place
    node: Node
    hash: bytes
    path: tuple[bytes, ...]
    answered: Node


Move = Agrees | Ask | Outside | Leaf


class Descent:
    """One dispute, from the challenger's side."""

    def __init__(self, trace: Trace, root: bytes) -> None:
        """trace: the honest one; root: the provider's."""
        self.trace, self.root = trace, root
        self._known: dict[Node, bytes] = {ROOT: root}
        self._levels: dict[Node, int] = {}  # that were revealed of a node

    def add(self, node: Node, hashes: Sequence[bytes]) -> None:
        """Takes what the provider revealed of a node, in any order of nodes that leads down. Raises RevealError."""
        levels = self.trace.geometry.node_at(node).levels
        if node not in self._known:
            raise RevealError(f"{node} hangs below nothing that was revealed")
        if len(hashes) != 1 << levels:
            raise RevealError(f"{1 << levels} hashes answer {node}, not {len(hashes)}")
        folded = fold(hashes)
        if folded[-1][0] != self._known[node]:
            raise RevealError(f"the hashes do not lead to that of {node}")
        for height, level in enumerate(folded):
            for index, value in enumerate(level):
                self._known[node.child(levels - height, index)] = value
        self._levels[node] = levels

    def next(self) -> Move:
        """What to do with what is known. A ``Leaf`` is the end of the way."""
        node = answered = ROOT
        if self.root == self.trace.root():
            return Agrees()
        while node in self._levels:
            levels = self._levels[node]
            children = (node.child(levels, i) for i in range(1 << levels))
            answered, node = node, next(child for child in children if self._known[child] != self.trace.hash(child))
            info = self.trace.geometry.node_at(node)
            if not info.inside:
                # of what is outside as a whole the highest: below it no place is known to anybody
                return Outside(*self._highest_outside(node, answered))
            place = self.trace.geometry.place_of(node)
            if not info.levels and place is not None:
                return Leaf(place, node, self._known[node], self.path(node, answered), answered)
        return Ask(node, self._known[node], self.path(node, answered), answered)

    def hash(self, node: Node) -> bytes:
        """A node of the provider's tree. Raises RevealError where it is neither revealed nor honest."""
        above = node
        while above not in self._known:
            above = above.parent()
        if above == node:
            return self._known[node]
        if self._known[above] != self.trace.hash(above):
            raise RevealError(f"{node} lies where the traces differ and was not revealed")
        return self.trace.hash(node)

    def path(self, node: Node, top: Node = ROOT) -> tuple[bytes, ...]:
        """Siblings in the provider's tree from a node up to ``top``, lowest first."""
        siblings = []
        while node != top:
            siblings.append(self.hash(Node(node.depth, node.index ^ 1)))
            node = node.parent()
        return tuple(siblings)

    def leaf(self, place: Place) -> Opening:
        """An honest leaf of the provider's tree, up to its root."""
        return Opening(self.trace.payload(place), self.path(self.trace.geometry.node_of(place)))

    def _highest_outside(self, node: Node, answered: Node) -> tuple[Node, bytes, tuple[bytes, ...], Node]:
        while node.parent() != answered and not self.trace.geometry.node_at(node.parent()).inside:
            node = node.parent()
        return node, self._known[node], self.path(node, answered), answered
