"""Never all activations in memory: what a trace holds at most, while it is built and while it answers from every layer.

Counted by tracemalloc, to which numpy tells every array; the model's weights are there before.
"""

from __future__ import annotations

import dataclasses
import random
import tracemalloc
from pathlib import Path

import pytest

from market.inference.model import IntegerModel
from market.models.pack import load_pack
from market.verification.geometry import Geometry, Operation, Place
from market.verification.products import Products
from market.verification.structs import Shape
from market.verification.trace import Trace
from tests.unit.market.verification.setting import Setting, ids

MB = 10**6
PROMPT, ANSWER = 128, 64
OPENED = (Operation.DOWN, Operation.QUERY, Operation.SCORES, Operation.ACTIVATION)


def activations(geometry: Geometry, group: int) -> int:
    """Bytes of all elements of a group, each as small as the tree has it and without padding."""
    total = 0
    for operation in geometry.operations(group):
        section = geometry.section(group, operation)
        total += sum(
            section.elements(row, slot) * section.element_size(slot)
            for row in range(section.rows)
            for slot in range(section.slots)
            if section.inside(row, slot)
        )
    return total


def all_activations(geometry: Geometry) -> int:
    last = geometry.groups - 1
    return activations(geometry, 0) + (last - 1) * activations(geometry, 1) + activations(geometry, last)


def peak(trace: Trace) -> int:
    """Bytes that the trace and its openings of every group held at most: the root, then leaves with their siblings."""
    geometry, rng = trace.geometry, random.Random("openings")
    tracemalloc.start()
    try:
        trace.root()
        for group in range(geometry.groups):
            for operation in set(OPENED) & set(geometry.operations(group)) or geometry.operations(group)[-1:]:
                section = geometry.section(group, operation)
                place = Place(group, operation, rng.randrange(section.rows), 0)
                node = geometry.node_of(place)
                assert trace.payload(place)
                assert all(trace.hash(node.parent(i)) for i in range(section.bits))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def deeper(base: Setting, times: int) -> tuple[IntegerModel, Shape]:
    """The tiny model's layers over and over."""
    model = dataclasses.replace(base.model, layers=base.model.layers * times)
    return model, dataclasses.replace(base.shape, layers=base.shape.layers * times)


def test_a_trace_of_many_layers_holds_few_of_them(tiny: Setting) -> None:
    """More layers cost their residuals and roots, and no activations."""
    products, peaks, traces = Products(threads=1), [], []
    for times in (8, 32):
        trace = Trace(*deeper(tiny, times), tiny.input_ids, tiny.output_ids, products=products)
        peaks.append(peak(trace))
        traces.append(trace)
    few, many = (trace.geometry for trace in traces)
    layer, residual = activations(many, 1), 8 * many.positions * many.shape.hidden
    assert peaks[1] < all_activations(many) / 3
    grown = (peaks[1] - peaks[0]) / (many.groups - few.groups)
    assert grown < 2 * residual < layer / 5


@pytest.mark.slow
def test_a_trace_of_the_real_model_holds_less_than_its_activations(real_pack: Path) -> None:
    """What docs/disputes.md, section 3, calls small: 192 tokens."""
    pack = load_pack(real_pack)
    tokens = ids("memory", PROMPT + ANSWER, pack.model.config.vocabulary)
    products = Products.proved(pack.model)
    trace = Trace(pack.model, Shape.of(pack.program), tokens[:PROMPT], tokens[PROMPT:], products=products)
    assert peak(trace) < all_activations(trace.geometry) / 2
