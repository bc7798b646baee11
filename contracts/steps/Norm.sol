// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Maxima} from "../libraries/Maxima.sol";
import {ModelTrees, Tensor} from "../libraries/ModelTrees.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title The steps of ATTENTION_NORM, FEED_FORWARD_NORM and OUTPUT_NORM (docs/numerics.md 3.2, 3.3)
library Norm {
    using Openings for bytes;

    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        if (accusation.slot != 0) return _isValueWrong(context, accusation);
        if (accusation.element <= TraceTree.NORM_INVERSE) return _isSizeWrong(context, accusation);
        return _isLargestWrong(context, accusation);
    }

    /// @dev s and v. Input: row of X.
    function _isSizeWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        TraceTree.needInputs(accusation, 1);
        bytes calldata x = TraceTree.wholeRow(context, _residual(context, accusation, 0), accusation.inputs[0]);
        uint256 width = context.shape.hidden;
        uint256 s = StepMath.normShift(NormRow.magnitudes(x, width));
        uint256 expected = s;
        if (accusation.element == TraceTree.NORM_INVERSE) {
            expected = StepMath.inverseRoot(NormRow.squares(x, width, s), width, context.shape.epsilon, s);
        }
        return context.claimed != int256(expected);
    }

    /// @dev s′ and i′. Inputs: chunk of X with the witness, gain leaf with the witness. s and v are in the accused leaf.
    function _isLargestWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        bytes calldata statistic = accusation.accused.payload;
        int256 index = statistic.element(TraceTree.NORM_LARGEST, TraceTree.STATISTIC_WIDTH);
        uint256 width = context.shape.hidden;
        if (Maxima.isOutside(index, width)) return true;
        TraceTree.needInputs(accusation, 2);
        Maxima.checkWitness(accusation.witness, width);
        int256 scale = statistic.element(TraceTree.NORM_SCALE, TraceTree.STATISTIC_WIDTH);
        int256 y = _normalised(context, accusation, accusation.witness, statistic);
        return Maxima.isContradicted(scale, index, accusation.witness, StepMath.quantiseShift(y));
    }

    /// @dev Inputs: chunk of X, gain leaf, statistic.
    function _isValueWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        TraceTree.needInputs(accusation, 3);
        Place memory place = Place(accusation.group, accusation.operation, accusation.row, 0);
        bytes calldata statistic = TraceTree.leaf(context, place, accusation.inputs[2]);
        uint256 i = TraceTree.CHUNK * (uint256(accusation.slot) - 1) + accusation.element;
        int256 y = _normalised(context, accusation, i, statistic);
        int256 scale = statistic.element(TraceTree.NORM_SCALE, TraceTree.STATISTIC_WIDTH);
        return context.claimed != StepMath.quantised(y, scale);
    }

    /// @return y of element `i`, of the first two inputs
    function _normalised(Context memory context, Accusation calldata accusation, uint256 i, bytes calldata statistic)
        private
        pure
        returns (int256)
    {
        Place memory place = _residual(context, accusation, i / TraceTree.CHUNK);
        int256 x = TraceTree.elementAt(context, place, i % TraceTree.CHUNK, accusation.inputs[0]);
        int256 gain = ModelTrees.gain(context, _gains(context, accusation), i, accusation.inputs[1]);
        return StepMath.normalised(
            x,
            statistic.element(TraceTree.NORM_SHIFT, TraceTree.STATISTIC_WIDTH),
            statistic.element(TraceTree.NORM_INVERSE, TraceTree.STATISTIC_WIDTH),
            gain
        );
    }

    /// @return where X lies
    function _residual(Context memory context, Accusation calldata accusation, uint256 slot)
        private
        pure
        returns (Place memory)
    {
        if (accusation.group > context.shape.layers) {
            uint256 position = uint256(context.inputTokens) - 1 + accusation.row;
            return TraceTree.residualBefore(accusation.group, position, slot);
        }
        if (accusation.operation == TraceTree.FEED_FORWARD_NORM) {
            return Place(accusation.group, TraceTree.ATTENTION_OUTPUT, accusation.row, slot);
        }
        return TraceTree.residualBefore(accusation.group, accusation.row, slot);
    }

    function _gains(Context memory context, Accusation calldata accusation) private pure returns (Tensor memory) {
        if (accusation.group > context.shape.layers) return ModelTrees.outputNorm(context.shape);
        bool second = accusation.operation == TraceTree.FEED_FORWARD_NORM;
        return ModelTrees.ofLayer(
            context.shape, accusation.group - 1, second ? ModelTrees.FEED_FORWARD_NORM : ModelTrees.ATTENTION_NORM
        );
    }
}

/// @title What the statistic of a norm takes from a whole row of int48
library NormRow {
    /// @return largest has as many bits as the largest magnitude of the row
    /// @dev Five values at a time, as lanes of 48 bits: |x| is ¬x + 1 where x is negative, and at most 2^47, so no lane
    /// overflows. All of them together have the bits of the largest.
    function magnitudes(bytes calldata x, uint256 width) internal pure returns (uint256 largest) {
        assembly ("memory-safe") {
            let ones := 0x0000000000000001000000000001000000000001000000000001000000000001
            let joined := 0
            let end := add(x.offset, mul(6, width))
            for { let at := x.offset } lt(at, end) {} {
                let lanes := shr(16, calldataload(at))
                at := add(at, 30)
                // of the last five those that the row has
                if gt(at, end) { lanes := shr(shl(3, sub(at, end)), lanes) }
                let negative := and(shr(47, lanes), ones)
                joined := or(joined, add(xor(lanes, mul(negative, 0xffffffffffff)), negative))
            }
            for {} joined { joined := shr(48, joined) } {
                largest := or(largest, and(joined, 0xffffffffffff))
            }
        }
    }

    /// @return sum of the squares of the row's values, shifted to the right by `s` to the nearest, halves upward
    function squares(bytes calldata x, uint256 width, uint256 s) internal pure returns (uint256 sum) {
        assembly ("memory-safe") {
            let half := shr(1, shl(s, 1)) // none for s = 0
            let end := add(x.offset, mul(6, width))
            for { let at := x.offset } lt(at, end) { at := add(at, 6) } {
                let t := sar(s, add(sar(208, calldataload(at)), half))
                sum := add(sum, mul(t, t))
            }
        }
    }
}
