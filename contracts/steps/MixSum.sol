// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Attention} from "../libraries/Attention.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title MIX_SUM: values times weights, summed up to and with a block of positions (docs/numerics.md 3.8)
library MixSum {
    using Openings for bytes;

    /// @dev Inputs: the leaf of the block before (none for block 0), SCORES leaf, SOFTMAX leaf, VALUE leaf.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        (uint256 head, uint256 number) = Attention.split(context, accusation.slot);
        uint256 first = number == 0 ? 0 : 1;
        TraceTree.needInputs(accusation, first + 3);
        int256 sum;
        if (first == 1) {
            Place memory before = _place(accusation, TraceTree.MIX_SUM, accusation.slot - 1);
            sum = TraceTree.elementAt(context, before, accusation.element, accusation.inputs[0]);
        }
        bytes calldata scores =
            TraceTree.leaf(context, _place(accusation, TraceTree.SCORES, accusation.slot), accusation.inputs[first]);
        int256 maximum = TraceTree.elementAt(
            context, _place(accusation, TraceTree.SOFTMAX, head), Attention.MAXIMUM, accusation.inputs[first + 1]
        );
        bytes calldata values =
            TraceTree.leaf(context, _values(context, accusation, head, number), accusation.inputs[first + 2]);
        return sum + _sum(scores, values, maximum, Attention.length(accusation.row, number)) != context.claimed;
    }

    /// @param length INVARIANT: a block's values may reach beyond the row's position, its weights don't
    function _sum(bytes calldata scores, bytes calldata values, int256 maximum, uint256 length)
        private
        pure
        returns (int256 sum)
    {
        bytes memory table = StepMath.exp2Table();
        unchecked {
            for (uint256 i; i < length; ++i) {
                int256 weight = StepMath.weight(scores.element(i, Attention.SCORE), maximum, table);
                sum += weight * values.element(i, Attention.CACHED);
            }
        }
    }

    function _place(Accusation calldata accusation, uint256 operation, uint256 slot)
        private
        pure
        returns (Place memory)
    {
        return Place(accusation.group, operation, accusation.row, slot);
    }

    function _values(Context memory context, Accusation calldata accusation, uint256 head, uint256 number)
        private
        pure
        returns (Place memory)
    {
        uint256 slot = Attention.source(context, head) * context.shape.headSize + accusation.element;
        return Place(accusation.group, TraceTree.VALUE, number, slot);
    }
}
