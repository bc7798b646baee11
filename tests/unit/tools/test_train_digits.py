"""The classifier that proof mode ships is as good as its page says."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT
from tools.train_digits import accuracies

pytest.importorskip("sklearn", reason="the extra `proof` is not installed")
pytest.importorskip("onnx", reason="the extra `proof` is not installed")


def test_the_shipped_classifier_reads_digits_it_has_not_seen() -> None:
    found = accuracies(ROOT / "recipes" / "digits.onnx")
    assert found["images"] == 450
    assert found["float"] >= 0.97
    assert found["quantised"] >= 0.96
