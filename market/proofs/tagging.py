"""A model's graph made ready for a circuit: the job's tag goes through it untouched, so that a proof names its job; a
hashed input gets a blinding number that the model does not read.

Only here is the package `onnx` imported, and torch only for a TorchScript file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from market.errors import ConfigError
from market.proofs.backend import InputForm
from market.proofs.errors import NotProvable

TAG, TAG_OUT, INPUT = "assay_tag", "assay_tag_out", "assay_input"
OPSET = 14


def onnx_module() -> Any:
    """The package `onnx`.

    Raises:
        ConfigError: code ProofExtraMissing.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError(
            "Proofs need packages that are not installed.",
            hint="Install the extra: pip install 'assay[proof]'.",
            code="ProofExtraMissing",
        ) from None
    return onnx


def read_model(path: Path, inputs: int | None) -> Any:
    """An ONNX graph from a .onnx file, or from a TorchScript file (.pt), which states no shape.

    Args:
        inputs: numbers that a TorchScript model takes, as one row: [1, inputs].
    Raises:
        NotProvable: codes ModelUnreadable, and ModelShape where a TorchScript model takes no such row.
    """
    onnx = onnx_module()
    if not path.is_file():
        raise NotProvable(f"There is no file {path}.", code="ModelUnreadable")
    try:
        return _from_torch(path, inputs) if path.suffix == ".pt" else onnx.load(str(path))
    except NotProvable:
        raise
    except Exception as error:  # noqa: BLE001 - two parsers of foreign files, with every kind of exception
        raise NotProvable(f"{path} cannot be read as a model: {error}", code="ModelUnreadable") from None


def _from_torch(path: Path, inputs: int | None) -> Any:
    import io
    import warnings

    try:
        import torch
    except ImportError:
        raise NotProvable(
            f"Reading {path} takes torch, which is not installed.",
            hint="Install it (pip install torch), or export the model to ONNX where it is.",
            code="ModelUnreadable",
        ) from None

    if inputs is None:
        raise NotProvable(
            "A TorchScript file does not say how long its input is.",
            hint="Say it with --inputs.",
            code="ModelUnreadable",
        )
    example = torch.zeros(1, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.jit.load(str(path)).eval()
        except RuntimeError:
            raise NotProvable(
                f"{path} is no TorchScript file.",
                hint="Write one with torch.jit.trace(model, example).save(path): a state_dict has no graph.",
                code="ModelUnreadable",
            ) from None
        try:
            module(example)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
            raise NotProvable(
                f"{path} does not take one row of {inputs} numbers, the only shape in which a TorchScript model gets "
                f"them: {why[:200]}.",
                hint="Say with --inputs how many it takes. One that wants another shape, as an image's, comes as ONNX, "
                "which states it: torch.onnx.export(model, (example,), path, opset_version=14, dynamo=False).",
                code="ModelShape",
            ) from None
        buffer = io.BytesIO()
        torch.onnx.export(module, (example,), buffer, input_names=["x"], opset_version=OPSET, dynamo=False)
    return onnx_module().load_model_from_string(buffer.getvalue())


def prepare(model: Any, form: InputForm) -> tuple[Any, int, int]:
    """Adds the tag, and for a hashed input the blinding.

    Returns:
        the graph, how many ids go in and how many come out.
    Raises:
        NotProvable: code ModelShape: several inputs or outputs, or shapes that are not fixed.
    """
    onnx = onnx_module()
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    constants = {tensor.name for tensor in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    if len(given) != 1 or len(graph.output) != 1:
        raise NotProvable(
            f"A provable model has one input and one output; this one has {len(given)} and {len(graph.output)}.",
            code="ModelShape",
        )
    shape, inputs = _shape(given[0])
    if not _known(graph.output[0]):
        made = onnx.shape_inference.infer_shapes(made)
        graph = made.graph
        given = [value for value in graph.input if value.name not in constants]
    _, outputs = _shape(graph.output[0])
    number, helper = onnx.TensorProto.FLOAT, onnx.helper
    if form == InputForm.HASHED:
        name = given[0].name
        graph.input.remove(given[0])
        graph.input.insert(0, helper.make_tensor_value_info(INPUT, number, [1, inputs + 1]))
        for key, values in (("start", [0]), ("end", [inputs]), ("axis", [1]), ("shape", shape)):
            graph.initializer.append(helper.make_tensor(f"assay_{key}", onnx.TensorProto.INT64, [len(values)], values))
        cut = helper.make_node("Slice", [INPUT, "assay_start", "assay_end", "assay_axis"], ["assay_cut"])
        fit = helper.make_node("Reshape", ["assay_cut", "assay_shape"], [name])
        graph.node.insert(0, fit)
        graph.node.insert(0, cut)
    graph.input.append(helper.make_tensor_value_info(TAG, number, [1, 1]))
    graph.node.append(helper.make_node("Identity", [TAG], [TAG_OUT]))
    graph.output.append(helper.make_tensor_value_info(TAG_OUT, number, [1, 1]))
    return made, inputs, outputs


def _known(value: Any) -> bool:
    return all(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)


def _shape(value: Any) -> tuple[list[int], int]:
    """A batch that is left open is one."""
    dimensions = value.type.tensor_type.shape.dim
    shape = [d.dim_value or (1 if index == 0 else 0) for index, d in enumerate(dimensions)]
    if not shape or 0 in shape or shape[0] != 1:
        raise NotProvable(
            f"The shape of {value.name}, {shape}, is not one fixed input (0: left open).",
            hint="Export the model for a batch of one, with numbers for all other lengths.",
            code="ModelShape",
        )
    return shape, math.prod(shape)
