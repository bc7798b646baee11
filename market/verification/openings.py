"""Openings towards a root that somebody else gave, wrong ones too: from our own trace and the hashes that were shown.

Below a node whose hash we agree with, our siblings are theirs. Above it every sibling was shown: a reply shows whole
levels, and nothing is asked for that the replies do not lead to. So whatever lies left of the first wrong leaf can be
opened, and the wrong leaf itself once its payload was shown.
"""

from __future__ import annotations

from collections.abc import Mapping

from market.verification.geometry import Geometry, Node, Place
from market.verification.inputs import Input, TableLeaf, TokensWord, TraceLeaf, TraceRow, WeightLeaf
from market.verification.model_trees import ModelTrees, token_opening
from market.verification.structs import Opening
from market.verification.trace import Trace


class Unopenable(ValueError):
    """The replies so far do not lead to a place; more of them have to be asked for."""


class Openings:
    """Openings in the tree that the replies to one dispute are of.

    Args:
        trace: the honest one of the claim.
        known: hashes that the replies show, the root's among them.
    """

    def __init__(self, trace: Trace, trees: ModelTrees, known: Mapping[Node, bytes]) -> None:
        self._trace, self._trees, self._known = trace, trees, known

    @property
    def geometry(self) -> Geometry:
        return self._trace.geometry

    def path(self, node: Node) -> tuple[bytes, ...]:
        """A node's siblings up to the root, lowest first. Raises Unopenable."""
        path: list[bytes] = []
        agreed = node
        while agreed not in self._known:
            path.append(self._trace.hash(Node(agreed.depth, agreed.index ^ 1)))
            if agreed.depth == 0:
                raise Unopenable("the root was not given yet")
            agreed = agreed.parent()
        if path and self._known[agreed] != self._trace.hash(agreed):
            raise Unopenable(f"the hash at {agreed} is not ours, and nothing below it was shown")
        while agreed.depth > 0:
            path.append(self._known[Node(agreed.depth, agreed.index ^ 1)])
            agreed = agreed.parent()
        return tuple(path)

    def leaf(self, place: Place) -> Opening:
        """One of our own leaves. Raises Unopenable; also where the leaf that was shown is another one."""
        node = self.geometry.node_of(place)
        self._check_ours(node)
        return Opening(self._trace.payload(place), self.path(node))

    def of(self, wanted: Input) -> Opening:
        """An input of a step. Raises Unopenable."""
        match wanted:
            case TraceLeaf(place):
                return self.leaf(place)
            case TraceRow(group, operation, row):
                node = self.geometry.row_node(group, operation, row)
                self._check_ours(node)
                return Opening(self._trace.row_payload(group, operation, row), self.path(node))
            case WeightLeaf(leaf):
                return self._trees.weight_opening(leaf)
            case TableLeaf(leaf):
                return self._trees.table_opening(leaf)
            case TokensWord(output, index):
                ids = self._trace.output_ids if output else self._trace.input_ids
                return token_opening(ids, index, self._trees.keccak)

    def _check_ours(self, node: Node) -> None:
        shown = self._known.get(node)
        if shown is not None and shown != self._trace.hash(node):
            raise Unopenable(f"the leaf at {node} is not ours")
