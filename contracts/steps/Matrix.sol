// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {DotProduct} from "../libraries/DotProduct.sol";
import {ModelTrees, Tensor} from "../libraries/ModelTrees.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title The steps of every product with a matrix (docs/numerics.md 3.4): QUERY, KEY, VALUE, GATE, UP, LOGITS, and
/// ATTENTION_OUTPUT and DOWN, which add to the residual stream
library Matrix {
    using Openings for bytes;

    /// @notice One element of a product.
    struct Product {
        Place row; // of activations
        uint256 scale; // field of its statistic
        Tensor tensor;
        uint256 weightRow;
        uint256 exponent;
    }

    /// @dev Inputs: row of activations (statistic and chunks), weight row, chunk of X where it is added.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        bool head = accusation.group > context.shape.layers;
        bool adds =
            !head && (accusation.operation == TraceTree.ATTENTION_OUTPUT || accusation.operation == TraceTree.DOWN);
        TraceTree.needInputs(accusation, adds ? 3 : 2);
        int256 expected =
            _product(context, accusation, head ? _ofHead(context, accusation) : _ofLayer(context, accusation));
        unchecked {
            if (adds) {
                expected += TraceTree.elementAt(
                    context, _residual(accusation), accusation.element, accusation.inputs[2]
                );
            } else if (!head && accusation.operation == TraceTree.VALUE) {
                expected = StepMath.toCache(expected, context.format.valueFraction);
            }
        }
        return context.claimed != expected;
    }

    function _product(Context memory context, Accusation calldata accusation, Product memory product)
        private
        pure
        returns (int256)
    {
        bytes calldata row = TraceTree.wholeRow(context, product.row, accusation.inputs[0]);
        (bytes calldata weights, uint256 multiplier) =
            ModelTrees.weightRow(context, product.tensor, product.weightRow, accusation.inputs[1]);
        int256 total = DotProduct.sum(row[TraceTree.STATISTIC_BYTES:], weights);
        int256 scale = row.element(product.scale, TraceTree.STATISTIC_WIDTH);
        unchecked {
            return StepMath.rsr(total * int256(multiplier), int256(product.exponent) - scale);
        }
    }

    function _ofHead(Context memory context, Accusation calldata accusation) private pure returns (Product memory) {
        return Product({
            row: Place(accusation.group, TraceTree.OUTPUT_NORM, accusation.row, 0),
            scale: TraceTree.NORM_SCALE,
            tensor: ModelTrees.head(context.shape),
            weightRow: TraceTree.LOGITS_CHUNK * accusation.slot + accusation.element,
            exponent: context.shape.headExponent
        });
    }

    function _ofLayer(Context memory context, Accusation calldata accusation)
        private
        pure
        returns (Product memory product)
    {
        (uint256 which, uint256 source, uint256 exponent) = _operands(context, accusation.operation);
        product.exponent = exponent;
        product.tensor = ModelTrees.ofLayer(context.shape, accusation.group - 1, which);
        product.row = Place(accusation.group, source, accusation.row, 0);
        product.scale = source == TraceTree.ATTENTION_NORM || source == TraceTree.FEED_FORWARD_NORM
            ? TraceTree.NORM_SCALE
            : TraceTree.SCALE;
        unchecked {
            if (which == ModelTrees.VALUE) {
                // a leaf is one element at 64 positions
                product.row.row = TraceTree.BLOCK * accusation.row + accusation.element;
                product.weightRow = accusation.slot;
            } else if (which == ModelTrees.QUERY || which == ModelTrees.KEY) {
                product.weightRow = uint256(context.shape.headSize) * accusation.slot + accusation.element;
            } else {
                product.weightRow = TraceTree.CHUNK * accusation.slot + accusation.element;
            }
        }
    }

    /// @return which tensor of the layer
    /// @return source operation that gives the activations
    /// @return exponent of the tensor
    function _operands(Context memory context, uint256 operation) private pure returns (uint256, uint256, uint256) {
        if (operation == TraceTree.QUERY) {
            return (ModelTrees.QUERY, TraceTree.ATTENTION_NORM, context.format.query);
        }
        if (operation == TraceTree.KEY) return (ModelTrees.KEY, TraceTree.ATTENTION_NORM, context.format.key);
        if (operation == TraceTree.VALUE) return (ModelTrees.VALUE, TraceTree.ATTENTION_NORM, context.format.value);
        if (operation == TraceTree.ATTENTION_OUTPUT) {
            return (ModelTrees.ATTENTION_OUTPUT, TraceTree.QUANTISE_MIX, context.format.attentionOutput);
        }
        if (operation == TraceTree.GATE) return (ModelTrees.GATE, TraceTree.FEED_FORWARD_NORM, context.format.gate);
        if (operation == TraceTree.UP) return (ModelTrees.UP, TraceTree.FEED_FORWARD_NORM, context.format.up);
        return (ModelTrees.DOWN, TraceTree.ACTIVATION, context.format.down);
    }

    /// @return where the chunk lies that the product is added to
    function _residual(Accusation calldata accusation) private pure returns (Place memory) {
        if (accusation.operation == TraceTree.DOWN) {
            return Place(accusation.group, TraceTree.ATTENTION_OUTPUT, accusation.row, accusation.slot);
        }
        return TraceTree.residualBefore(accusation.group, accusation.row, accusation.slot);
    }
}
