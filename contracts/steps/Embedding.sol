// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {ModelTrees} from "../libraries/ModelTrees.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, TraceTree} from "../libraries/TraceTree.sol";

/// @title The step of EMBEDDING (docs/numerics.md 3.1)
library Embedding {
    using Openings for bytes;

    /// @dev Inputs: ids word, weight row of the id.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        TraceTree.needInputs(accusation, 2);
        // INVARIANT: the row is the one of the id that the receipt binds at this position
        uint256 token = ModelTrees.tokenAt(context, accusation.row, accusation.inputs[0]);
        (bytes calldata weights, uint256 multiplier) =
            ModelTrees.weightRow(context, ModelTrees.embedding(context.shape), token, accusation.inputs[1]);
        unchecked {
            int256 weight = weights.element(TraceTree.CHUNK * accusation.slot + accusation.element, 1);
            int256 shift = int256(uint256(context.shape.embeddingExponent)) - 16;
            return context.claimed != StepMath.rsr(weight * int256(multiplier), shift);
        }
    }
}
