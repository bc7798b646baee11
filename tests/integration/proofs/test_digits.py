"""The classifier that is shipped, as it is shipped: set up, right about images that it was not trained on, proved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from market.proofs.backend import signed, unsigned
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.setup import SetupWish, set_up
from tests.conftest import ROOT
from tests.integration.proofs.conftest import SOLC
from tools.train_digits import accuracies, data
from tools.train_digits import read as weights

DIGITS = ROOT / "recipes" / "digits.onnx"
SAMPLES = 60


def test_the_shipped_classifier_reads_digits_as_well_in_its_circuit(backend: EzklBackend, tmp_path: Path) -> None:
    labels = tuple(str(digit) for digit in range(10))
    made = set_up(SetupWish(DIGITS, "digits", SOLC, labels=labels), tmp_path / "digits", backend)
    assert made.manifest["srs"]["logRows"] == 11
    _, images, _, truth = data()
    inputs = [[unsigned(int(pixel)) for pixel in image] for image in images[:SAMPLES]]
    outputs = backend.run(made.folder, inputs)
    read = [max(range(10), key=[signed(token) for token in ids].__getitem__) for ids in outputs]
    first, offset, second, end = weights(DIGITS)
    floats = (np.maximum(images[:SAMPLES] @ first + offset, 0) @ second + end).argmax(1)
    right, right_in_float = ((np.array(found) == truth[:SAMPLES]).sum() for found in (read, floats))
    assert right >= right_in_float - 2
    assert right_in_float >= 0.9 * SAMPLES
    assert accuracies(DIGITS)["float"] >= 0.97
    proof = backend.prove(made.folder, inputs[0], b"\x01" * 32)
    assert proof.ids == outputs[0]
    assert backend.verify(made.folder, proof)
