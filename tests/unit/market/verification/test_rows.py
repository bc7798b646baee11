"""What kernels in C compute and hash of a trace against numpy and Python's keccak."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from market.inference.forward_selftest import small_model
from market.inference.native import library
from market.verification import roots
from market.verification.geometry import Operation, Section
from market.verification.layer import LayerValues, Recomputation, Values, residual
from market.verification.leaves import payloads
from market.verification.products import Products
from market.verification.roots import SectionRoots, section_tree
from market.verification.rows import Rows
from market.verification.trace import Trace
from market.verification.tree import Keccak
from tests.unit.market.verification.setting import Setting, ids
from tests.unit.market.verification.test_tree import widths

KERNELS = library.supported()
pytestmark = pytest.mark.skipif(not KERNELS, reason="there are no kernels here")


@pytest.fixture(params=KERNELS)
def products(request: pytest.FixtureRequest) -> Products:
    return Products(request.param, threads=2)


def nothing(*_: object) -> None:
    """A hook: with one, everything is computed in numpy."""


def groups(recomputation: Recomputation, layers: int) -> list[LayerValues]:
    found = [recomputation.embedding()]
    for index in range(layers):
        found.append(recomputation.layer(index, residual(found[-1])))
    return [*found, recomputation.head(residual(found[-1]))]


@pytest.mark.parametrize("lengths", [(1, 1), (60, 5), (64, 1), (100, 60)])
def test_whole_groups_are_numpys_to_the_last_filler(
    tiny: Setting, products: Products, lengths: tuple[int, int]
) -> None:
    """Blocks that are outside and scores of later positions too: payloads cut them off, but they must not be chance."""
    inputs, outputs, layers = ids("c", lengths[0], 288), ids("d", lengths[1], 288), tiny.model.config.layers
    native = groups(Recomputation(tiny.model, inputs, outputs, products), layers)
    plain = groups(Recomputation(tiny.model, inputs, outputs, Products("numpy", 1), nothing), layers)
    for got, expected in zip(native, plain, strict=True):
        assert got.keys() == expected.keys()
        for operation, values in expected.items():
            assert np.array_equal(got[operation].elements, values.elements), operation
            if values.statistic is not None:
                assert np.array_equal(got[operation].statistic, values.statistic), operation


def test_kernels_agree(tiny: Setting, products: Products) -> None:
    assert products.rows is not None
    assert products.rows.agree(tiny.model)
    assert products.rows.agree(small_model(tiny.model.tables))


def test_numpys_products_have_no_rows() -> None:
    assert Products("numpy").rows is None


@pytest.mark.parametrize("name", ["norm", "quantise", "rotate", "to_cache", "attend"])
def test_kernel_with_a_wrong_row_is_passed_over(tiny: Setting, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(Rows, name)

    def wrong(self: Rows, *arguments: Any) -> Any:
        result = right(self, *arguments)
        first = result if isinstance(result, np.ndarray) else result[-1]
        first.reshape(-1)[-1] += 1
        return result

    monkeypatch.setattr(Rows, name, wrong)
    assert not Products(KERNELS[0]).agree(tiny.model)
    assert Products.proved(tiny.model).kernel == "numpy"


def sections(tiny: Setting, products: Products) -> list[tuple[Section, Values]]:
    geometry, layers = tiny.geometry, tiny.model.config.layers
    recomputation = Recomputation(tiny.model, tiny.input_ids, tiny.output_ids, products)
    found = enumerate(groups(recomputation, layers))
    return [(geometry.section(group, name), values[name]) for group, values in found for name in values]


@pytest.mark.parametrize("width", [width for width in widths() if width])
def test_roots_are_those_of_the_trees(tiny: Setting, width: int) -> None:
    assert roots.proved(width)
    native, plain = SectionRoots(Keccak(width)), Keccak(0)
    for section, values in sections(tiny, Products()):
        expected = section_tree(plain, section, payloads(section, values)).root
        assert native.root(section, values) == expected, section.operation


def test_a_hooked_trace_has_the_same_roots(tiny: Setting) -> None:
    """Its arrays lie otherwise: views of transposed ones are among them."""
    assert Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids, hook=nothing).root() == tiny.honest.root()


def test_values_beyond_their_type_have_no_root(tiny: Setting) -> None:
    native = SectionRoots(Keccak())
    for operation, size in ((Operation.DOWN, 6), (Operation.QUERY, 4), (Operation.ROTATE_QUERY, 2)):
        section = tiny.geometry.section(1, operation)
        elements = np.zeros((section.rows, section.width), dtype=np.int64)
        for value, fits in ((-(1 << (8 * size - 1)), True), (1 << (8 * size - 1), False)):
            elements[-1, -1] = value
            tree = section_tree(Keccak(0), section, payloads(section, Values(elements), strict=False))
            assert native.root(section, Values(elements), strict=False) == tree.root
            if fits:
                assert native.root(section, Values(elements)) == tree.root
                continue
            with pytest.raises(OverflowError, match=f"does not fit {size} bytes"):
                native.root(section, Values(elements))


def test_width_that_hashes_wrongly_is_not_used(tiny: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = roots._root
    monkeypatch.setattr(roots, "_root", lambda *arguments: bytes(32) if arguments[0] else right(*arguments))
    roots.proved.cache_clear()
    try:
        section, values = sections(tiny, Products())[0]
        assert SectionRoots(Keccak()).root(section, values) is None
        assert Trace(tiny.model, tiny.shape, tiny.input_ids, tiny.output_ids).root() == tiny.honest.root()
    finally:
        roots.proved.cache_clear()


def test_payloads_longer_than_the_library_takes_are_left_to_the_tree() -> None:
    huge = Section(1, Operation.QUERY, 3, 2, 0, 200, 400, 4, 3, 0)
    assert SectionRoots(Keccak()).root(huge, Values(np.zeros((3, 400), dtype=np.int64))) is None
