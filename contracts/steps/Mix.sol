// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Attention} from "../libraries/Attention.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title MIX: the sum of weighted values, divided by the sum of weights (docs/numerics.md 3.8)
library Mix {
    /// @dev Inputs: MIX_SUM leaf of the row's last block, SOFTMAX leaf.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        TraceTree.needInputs(accusation, 2);
        // INVARIANT: both sums are those up to the row's own position
        uint256 last = accusation.row / TraceTree.BLOCK;
        uint256 slot = Attention.join(context, accusation.slot, last);
        Place memory ofSum = Place(accusation.group, TraceTree.MIX_SUM, accusation.row, slot);
        int256 sum = TraceTree.elementAt(context, ofSum, accusation.element, accusation.inputs[0]);
        Place memory ofTotals = Place(accusation.group, TraceTree.SOFTMAX, accusation.row, accusation.slot);
        int256 total = TraceTree.elementAt(context, ofTotals, Attention.TOTALS + last, accusation.inputs[1]);
        return StepMath.mixed(sum, total, context.format.valueFraction) != context.claimed;
    }
}
