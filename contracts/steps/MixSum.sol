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
            Place memory before = _inRow(accusation, TraceTree.MIX_SUM, accusation.slot - 1);
            sum = TraceTree.elementAt(context, before, accusation.element, accusation.inputs[0]);
        }
        int256 maximum = TraceTree.elementAt(
            context, _inRow(accusation, TraceTree.SOFTMAX, head), Attention.MAXIMUM, accusation.inputs[first + 1]
        );
        return sum + _ofBlock(context, accusation, first, maximum) != context.claimed;
    }

    /// @return sum of the block's own values, each times its weight
    function _ofBlock(Context memory context, Accusation calldata accusation, uint256 first, int256 maximum)
        private
        pure
        returns (int256)
    {
        bytes calldata values = TraceTree.leaf(context, _values(context, accusation), accusation.inputs[first + 2]);
        Place memory ofScores = _inRow(accusation, TraceTree.SCORES, accusation.slot);
        bytes calldata scores = TraceTree.leaf(context, ofScores, accusation.inputs[first]);
        (, uint256 number) = Attention.split(context, accusation.slot);
        // INVARIANT: a block's values may reach beyond the row's position, its weights don't
        uint256 length = Attention.length(accusation.row, number);
        return _sum(scores, values, maximum, length);
    }

    /// @return where the block's values of the element are, of the key/value head that this head reads
    function _values(Context memory context, Accusation calldata accusation) private pure returns (Place memory) {
        (uint256 head, uint256 number) = Attention.split(context, accusation.slot);
        uint256 slot = Attention.source(context, head) * context.shape.headSize + accusation.element;
        return Place(accusation.group, TraceTree.VALUE, number, slot);
    }

    function _inRow(Accusation calldata accusation, uint256 operation, uint256 slot)
        private
        pure
        returns (Place memory)
    {
        return Place(accusation.group, operation, accusation.row, slot);
    }

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
}
