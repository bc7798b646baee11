"""The classifier that is shipped: made by its script, right about images that it was not trained on as often as is
stated, proved, sold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from market.proofs.artefact import ProofArtefact
from market.proofs.backend import signed, unsigned
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.registration import register
from provider.proofs_cli import proving
from tests.integration.chain.world import PROVIDERS
from tests.integration.proofs.conftest import DIGITS
from tests.integration.proofs.shopping import BASE_FEE, GAS_BAR, Shopping
from tools.train_digits import accuracies, data, train, write

IMAGES = 450
RIGHT_IN_FLOAT, RIGHT_IN_CIRCUIT = 438, 437  # 97.33 % and 97.11 %: docs/proofs.md, docs/benchmarks.md


def test_the_shipped_classifier_reads_what_is_stated_in_float_and_in_its_circuit(
    digits: ProofArtefact, backend: EzklBackend
) -> None:
    """All images that were held out, none of which is among those that it was trained on."""
    assert digits.manifest["srs"]["logRows"] == 11
    trained, images, _, truth = data()
    assert (len(trained), len(images)) == (1_347, IMAGES)
    shares = accuracies(DIGITS)
    assert round(shares["float"] * IMAGES) == RIGHT_IN_FLOAT
    assert round(shares["quantised"] * IMAGES) == RIGHT_IN_CIRCUIT
    outputs = backend.run(digits.folder, [[unsigned(int(pixel)) for pixel in image] for image in images])
    read = [max(range(10), key=[signed(token) for token in ids].__getitem__) for ids in outputs]
    assert (np.array(read) == truth).sum() == RIGHT_IN_CIRCUIT


def test_its_script_makes_a_classifier_that_reads_as_well(tmp_path: Path) -> None:
    """Not the same bytes on every machine: numpy's sums differ in their last bits."""
    write(train(), tmp_path / "again.onnx")
    again, shipped = accuracies(tmp_path / "again.onnx"), accuracies(DIGITS)
    assert again["images"] == IMAGES
    for form in ("float", "quantised"):
        assert again[form] == pytest.approx(shipped[form], abs=0.01)


def test_the_shipped_classifier_is_sold_for_the_gas_that_is_stated(
    shopping: Shopping, digits: ProofArtefact, backend: EzklBackend
) -> None:
    values = [int(pixel) for pixel in data()[1][0]]
    with shopping.world.as_(PROVIDERS[0]) as transactions:
        register(digits, shopping.world.contracts, transactions)
    earned = shopping.credit(PROVIDERS[1])
    with proving(shopping.settings(digits, provider=1)) as agent:
        result = shopping.client.classify(shopping.client.negotiate(digits, values, agent.url))
    assert shopping.credit(PROVIDERS[1]) == earned + BASE_FEE
    assert tuple(result.ids) == backend.run(digits.folder, [[unsigned(value) for value in values]])[0]
    assert result.label == str(data()[3][0])
    receipt = shopping.world.chain.receipt(result.transaction)
    assert receipt is not None
    assert int(receipt["gasUsed"], 16) <= GAS_BAR
