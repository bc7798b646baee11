// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Maxima} from "../libraries/Maxima.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title ACTIVATION: gate and up as one row of 16-bit values (docs/numerics.md 3.9, section 4, 3.3)
library Activation {
    using Openings for bytes;

    /// @dev Inputs: for the statistic GATE and UP leaf with the witness (none is read where i′ lies outside), for a value
    /// GATE leaf, UP leaf, statistic.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        if (accusation.slot == 0) return _isStatisticWrong(context, accusation);
        TraceTree.needInputs(accusation, 3);
        int256 z = _gated(context, accusation, accusation.slot - 1, accusation.element);
        Place memory ofStatistic = Place(accusation.group, TraceTree.ACTIVATION, accusation.row, 0);
        int256 scale = TraceTree.elementAt(context, ofStatistic, TraceTree.SCALE, accusation.inputs[2]);
        return StepMath.quantised(z, scale) != context.claimed;
    }

    function _isStatisticWrong(Context memory context, Accusation calldata accusation) private pure returns (bool) {
        bytes calldata fields = accusation.accused.payload;
        uint256 length = context.shape.feedForward;
        uint256 witness = accusation.witness;
        int256 largest = fields.element(TraceTree.LARGEST, TraceTree.STATISTIC_WIDTH);
        if (Maxima.isOutside(largest, length)) return true;
        Maxima.checkWitness(witness, length);
        TraceTree.needInputs(accusation, 2);
        int256 z = _gated(context, accusation, witness / TraceTree.CHUNK, witness % TraceTree.CHUNK);
        int256 scale = fields.element(TraceTree.SCALE, TraceTree.STATISTIC_WIDTH);
        return Maxima.isContradicted(scale, largest, witness, StepMath.quantiseShift(z));
    }

    /// @return z of an element of a chunk, Q16
    function _gated(Context memory context, Accusation calldata accusation, uint256 chunk, uint256 element)
        private
        pure
        returns (int256)
    {
        Place memory place = Place(accusation.group, TraceTree.GATE, accusation.row, chunk);
        int256 gate = TraceTree.elementAt(context, place, element, accusation.inputs[0]);
        place.operation = TraceTree.UP;
        int256 up = TraceTree.elementAt(context, place, element, accusation.inputs[1]);
        return StepMath.gated(gate, up, StepMath.exp2Table());
    }
}
