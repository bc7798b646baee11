"""Trains the classifier that proof mode ships: handwritten digits of 8 × 8 pixels, 64-14-10, as ONNX.

Data: scikit-learn's copy of the "Optical Recognition of Handwritten Digits" set (UCI, CC BY 4.0), 1,797 images; a
quarter is held out by a fixed seed. Pixels are integers 0 to 16 and go into the circuit as they are.

python -m tools.train_digits recipes/digits.onnx        trains, writes, prints the accuracies
python -m tools.train_digits recipes/digits.onnx --check  only prints those of the file
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN = 14
WEIGHT_SCALE = 8
SEED = 0


def data() -> tuple[Any, Any, Any, Any]:
    """Train and test images [n, 64] and labels [n]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(images, labels, test_size=0.25, random_state=SEED, stratify=labels))


def train() -> list[Any]:
    """Weights [64, 14], [14, 10] and offsets [14], [10]."""
    from sklearn.neural_network import MLPClassifier

    images, _, labels, _ = data()
    # the penalty keeps weights small, so that few fraction bits are enough
    network = MLPClassifier((HIDDEN,), random_state=SEED, max_iter=400, alpha=1.0, learning_rate_init=0.003)
    network.fit(images, labels)
    return [*network.coefs_, *network.intercepts_]


def write(weights: list[Any], path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    first, second, offset, end = (value.astype(np.float32) for value in weights)
    named = {"w1": first, "b1": offset, "w2": second, "b2": end}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["scores"]),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, first.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, second.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in named.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), str(path))


def read(path: Path) -> tuple[Any, Any, Any, Any]:
    """w1, b1, w2, b2 of a file that `write` made."""
    import onnx

    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}
    return found["w1"], found["b1"], found["w2"], found["b2"]


def accuracies(path: Path, scale: int = WEIGHT_SCALE) -> dict[str, float]:
    """On the images that were held out: in float32, and with weights of `scale` fraction bits."""
    _, images, _, labels = data()
    first, offset, second, end = read(path)

    def share(hidden: Any, last: Any, after: Any) -> float:
        return round(float(((np.maximum(hidden, 0) @ last + after).argmax(1) == labels).mean()), 4)

    def fixed(value: Any, bits: int) -> Any:
        return np.rint(value.astype(np.float64) * 2**bits)

    return {
        "float": share(images @ first + offset, second, end),
        "quantised": share(
            images @ fixed(first, scale) + fixed(offset, scale), fixed(second, scale), fixed(end, 2 * scale)
        ),
        "images": float(len(labels)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not options.check:
        write(train(), options.path)
    print(json.dumps(accuracies(options.path)))


if __name__ == "__main__":
    main()
