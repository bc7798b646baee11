// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {ModelTrees} from "../libraries/ModelTrees.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title ROTATE_QUERY, ROTATE_KEY: an element of a head, turned by its position and cached (docs/numerics.md 3.5, 3.6)
library Rotary {
    using Openings for bytes;

    uint256 private constant WIDTH = 4; // of QUERY, KEY

    /// @dev Inputs: the head's QUERY or KEY leaf, cos leaf, sin leaf.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        TraceTree.needInputs(accusation, 3);
        bool isQuery = accusation.operation == TraceTree.ROTATE_QUERY;
        Place memory from =
            Place(accusation.group, isQuery ? TraceTree.QUERY : TraceTree.KEY, accusation.row, accusation.slot);
        bytes calldata head = TraceTree.leaf(context, from, accusation.inputs[0]);
        uint256 half = context.shape.headSize / 2;
        uint256 i = accusation.element % half;
        // INVARIANT: the angle is the row's own position's
        int256 cos = ModelTrees.rotary(context, false, accusation.row, i, accusation.inputs[1]);
        int256 sin = ModelTrees.rotary(context, true, accusation.row, i, accusation.inputs[2]);
        uint256 fraction = isQuery ? context.format.queryFraction : context.format.keyFraction;
        unchecked {
            int256 a = head.element(i, WIDTH);
            int256 b = head.element(i + half, WIDTH);
            int256 turned = accusation.element < half ? a * cos - b * sin : b * cos + a * sin;
            return StepMath.toCache(StepMath.rsr(turned, 15), fraction) != context.claimed;
        }
    }
}
