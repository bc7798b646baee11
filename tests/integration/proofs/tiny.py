"""A network of 4-16-3 with weights from a seed, as ONNX: what a circuit of 2^10 rows holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

INPUTS, HIDDEN, OUTPUTS = 4, 16, 3


def weights(seed: int, hidden: int = HIDDEN) -> tuple[Any, Any, Any, Any]:
    """float32 [hidden, 4], [hidden], [3, hidden], [3]."""
    draw = np.random.default_rng(seed)
    shapes = ((hidden, INPUTS), (hidden,), (OUTPUTS, hidden), (OUTPUTS,))
    return tuple(draw.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in shapes)  # type: ignore[return-value]


def forward(seed: int, values: list[int]) -> Any:
    """The float answer."""
    first, offset, second, end = weights(seed)
    return second @ np.maximum(first @ np.array(values, dtype=np.float32) + offset, 0) + end


def write_tiny(
    path: Path, seed: int, *, bent: int | None = None, hidden: int = HIDDEN, activation: str = "Relu"
) -> Path:
    """Args: bent: the tensor whose last weight is another."""
    from onnx import TensorProto, helper, numpy_helper, save

    first, offset, second, end = parts = weights(seed, hidden)
    if bent is not None:
        parts[bent].flat[-1] += 0.25
    named = {"w1": first, "b1": offset, "w2": second, "b2": end}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
            helper.make_node(activation, ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUTPUTS])],
        [numpy_helper.from_array(value, name) for name, value in named.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), str(path))
    return path
