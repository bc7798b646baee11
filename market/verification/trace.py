"""The tree of a trace, lazily: any node by recomputing one layer.

Kept: the residual before every group (8 bytes a value: (L + 1) · P · D of them) and the root of every section. The
values and section trees of the last few groups and sections asked for stay in small caches. Never in memory: all
activations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from market.inference.model import Int64Array, IntegerModel
from market.verification import layer as layers
from market.verification.geometry import OPERATION_BITS, Geometry, Node, Operation, Place
from market.verification.layer import Hook, LayerValues, Recomputation
from market.verification.leaves import payloads
from market.verification.products import Products
from market.verification.roots import SectionRoots, section_tree
from market.verification.structs import Shape
from market.verification.tree import Keccak, Payloads, SectionTree, empty, fold

GROUPS_KEPT = 2
SECTIONS_KEPT = 8
OVERLAPPED_POSITIONS = 768  # above, a layer is hashed before the next one is computed: half the memory
K = TypeVar("K")
V = TypeVar("V")


class Trace:
    """The honest trace of a claim (or with a ``hook`` a dishonest one). Not for several threads at once."""

    def __init__(
        self,
        model: IntegerModel,
        shape: Shape,
        input_ids: Sequence[int],
        output_ids: Sequence[int],
        keccak: Keccak | None = None,
        products: Products | None = None,
        hook: Hook | None = None,
    ) -> None:
        """Computes nothing yet. ``products`` may serve several traces of one model.

        Raises ValueError for lengths or ids that no trace has.
        """
        if not all(0 <= token < shape.vocabulary for token in (*input_ids, *output_ids)):
            raise ValueError(f"a token id lies outside 0 … {shape.vocabulary - 1}")
        self.geometry = Geometry(shape, len(input_ids), len(output_ids))
        self.input_ids, self.output_ids = tuple(input_ids), tuple(output_ids)
        self._keccak = keccak or Keccak()
        self._roots = SectionRoots(self._keccak)
        self._recomputation = Recomputation(model, input_ids, output_ids, products, hook)
        self._strict = hook is None
        self._residuals: list[Int64Array] = []  # before group 1, 2, …
        self._section_roots: list[list[bytes]] = []
        self._upper: list[list[bytes]] = []
        self._values: OrderedDict[int, LayerValues] = OrderedDict()
        self._payloads: OrderedDict[tuple[int, Operation], Payloads] = OrderedDict()
        self._trees: OrderedDict[tuple[int, Operation], SectionTree] = OrderedDict()

    def root(self) -> bytes:
        """Computes and hashes everything once, layer by layer: hashing one while the next is computed."""
        return self.hash(Node(0, 0))

    def hash(self, node: Node) -> bytes:
        """Any node's hash; EMPTY outside the program. Raises ValueError for one below the leaves."""
        self._build()
        geometry = self.geometry
        levels, _, inside = geometry.node_at(node)
        if not inside:
            return empty(levels)
        if node.depth <= geometry.group_bits:
            return self._upper[geometry.group_bits - node.depth][node.index]
        section_depth = geometry.group_bits + OPERATION_BITS
        if node.depth <= section_depth:
            group, index = divmod(node.index, 1 << (node.depth - geometry.group_bits))
            return fold(self._section_roots[group])[section_depth - node.depth][index]
        below = node.depth - section_depth
        group, number = divmod(node.index >> below, 1 << OPERATION_BITS)
        operation = geometry.operations(group)[number]
        bits = geometry.section(group, operation).bits
        return self._tree(group, operation).hash(bits - below, node.index & ((1 << below) - 1))

    def reveal(self, node: Node) -> list[bytes]:
        """The hashes that answer a request of a node inside and above the leaves, from left to right."""
        levels = self.geometry.node_at(node).levels
        return [self.hash(node.child(levels, i)) for i in range(1 << levels)]

    def payload(self, place: Place) -> bytes:
        """A leaf's. Raises KeyError for one outside the program."""
        section = self.geometry.section(place.group, place.operation)
        if not section.inside(place.row, place.slot):
            raise KeyError(place)
        return self._section_payloads(place.group, place.operation).payload(section.leaf(place.row, place.slot))

    def row_payload(self, group: int, operation: Operation, row: int) -> bytes:
        """Payloads of a whole row, one after the other."""
        section = self.geometry.section(group, operation)
        slots = range(section.slots)
        return b"".join(self.payload(Place(group, operation, row, slot)) for slot in slots if section.inside(row, slot))

    def logits(self) -> Int64Array:
        """[o, V] Q16."""
        return self._group_values(self.geometry.groups - 1)[Operation.LOGITS].elements.astype(np.int64)

    def _build(self) -> None:
        """Residuals and the roots of all sections, the first time."""
        if self._upper:
            return
        geometry, self._residuals = self.geometry, []
        section_roots: list[list[bytes]] = []
        with ThreadPoolExecutor(1, "assay-trace") as pool:
            pending: list[Future[list[bytes]]] = []
            for group in range(geometry.groups):
                if geometry.positions > OVERLAPPED_POSITIONS:
                    wait(pending)
                values = self._compute(group)
                if group < geometry.groups - 1:
                    self._residuals.append(layers.residual(values).copy())
                # one at a time, so that the values of no more than two groups are ever there
                section_roots += [future.result() for future in pending]
                pending = [pool.submit(self._hash_group, group, values)]
                del values
            section_roots += [future.result() for future in pending]
        roots = [fold(sections)[-1][0] for sections in section_roots]
        roots += [empty(0)] * ((1 << geometry.group_bits) - len(roots))
        self._section_roots, self._upper = section_roots, fold(roots)

    def _hash_group(self, group: int, values: LayerValues) -> list[bytes]:
        roots = []
        for operation in list(values):
            roots.append(self._section_root(group, operation, values))
            del values[operation]
        return roots + [empty(0)] * ((1 << OPERATION_BITS) - len(roots))

    def _compute(self, group: int) -> LayerValues:
        """Values of a group, in the order of its operations, from the residual before it."""
        if group == 0:
            values = self._recomputation.embedding()
        elif group == self.geometry.groups - 1:
            values = self._recomputation.head(self._residuals[group - 1])
        else:
            values = self._recomputation.layer(group - 1, self._residuals[group - 1])
        return {operation: values[operation] for operation in self.geometry.operations(group)}

    def _group_values(self, group: int) -> LayerValues:
        self._build()
        return _cached(self._values, group, GROUPS_KEPT, lambda: self._compute(group))

    def _section_payloads(self, group: int, operation: Operation) -> Payloads:
        return _cached(
            self._payloads,
            (group, operation),
            SECTIONS_KEPT,
            lambda: self._make_payloads(group, operation, self._group_values(group)),
        )

    def _tree(self, group: int, operation: Operation) -> SectionTree:
        return _cached(
            self._trees,
            (group, operation),
            SECTIONS_KEPT,
            lambda: self._make_tree(group, operation, self._section_payloads(group, operation)),
        )

    def _make_payloads(self, group: int, operation: Operation, values: LayerValues) -> Payloads:
        return payloads(self.geometry.section(group, operation), values[operation], strict=self._strict)

    def _make_tree(self, group: int, operation: Operation, leaves: Payloads) -> SectionTree:
        return section_tree(self._keccak, self.geometry.section(group, operation), leaves)

    def _section_root(self, group: int, operation: Operation, values: LayerValues) -> bytes:
        root = self._roots.root(self.geometry.section(group, operation), values[operation], self._strict)
        if root is None:
            return self._make_tree(group, operation, self._make_payloads(group, operation, values)).root
        return root


def _cached(cache: OrderedDict[K, V], key: K, most: int, make: Callable[[], V]) -> V:
    """An entry of a cache of the last ``most`` used."""
    if key not in cache:
        while len(cache) >= most:
            cache.popitem(last=False)
        cache[key] = make()
    cache.move_to_end(key)
    return cache[key]
