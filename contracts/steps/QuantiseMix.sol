// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Maxima} from "../libraries/Maxima.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title QUANTISE_MIX: the heads of a position as one row of 16-bit values (docs/numerics.md 3.3)
library QuantiseMix {
    using Openings for bytes;

    /// @dev Inputs: for the statistic the MIX leaf with the witness (none is read where i′ lies outside), for a value the
    /// head's MIX leaf and the statistic.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        if (accusation.slot == 0) return _isStatisticWrong(context, accusation);
        TraceTree.needInputs(accusation, 2);
        int256 y = _mix(context, accusation, accusation.slot - 1, accusation.element);
        Place memory ofStatistic = Place(accusation.group, TraceTree.QUANTISE_MIX, accusation.row, 0);
        int256 scale = TraceTree.elementAt(context, ofStatistic, TraceTree.SCALE, accusation.inputs[1]);
        return StepMath.quantised(y, scale) != context.claimed;
    }

    function _isStatisticWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        bytes calldata fields = accusation.accused.payload;
        uint256 size = context.shape.headSize;
        uint256 length = context.shape.heads * size;
        uint256 witness = accusation.witness;
        int256 largest = fields.element(TraceTree.LARGEST, TraceTree.STATISTIC_WIDTH);
        if (Maxima.isOutside(largest, length)) return true;
        Maxima.checkWitness(witness, length);
        TraceTree.needInputs(accusation, 1);
        int256 y = _mix(context, accusation, witness / size, witness % size);
        int256 scale = fields.element(TraceTree.SCALE, TraceTree.STATISTIC_WIDTH);
        return Maxima.isContradicted(scale, largest, witness, StepMath.quantiseShift(y));
    }

    function _mix(Context memory context, Accusation calldata accusation, uint256 head, uint256 element)
        private
        pure
        returns (int256)
    {
        Place memory place = Place(accusation.group, TraceTree.MIX, accusation.row, head);
        return TraceTree.elementAt(context, place, element, accusation.inputs[0]);
    }
}
