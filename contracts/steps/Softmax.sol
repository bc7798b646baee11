// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Attention} from "../libraries/Attention.sol";
import {Maxima} from "../libraries/Maxima.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title SOFTMAX: the largest score, where it is, and the sums of weights (docs/numerics.md 3.8)
library Softmax {
    using Openings for bytes;

    /// @dev Inputs: for M and i′ the SCORES leaf with the witness (none is read where i′ lies outside), for Z of a block
    /// the block's SCORES leaf.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        bytes calldata fields = accusation.accused.payload;
        if (accusation.element >= Attention.TOTALS) return _isTotalWrong(context, accusation, fields);

        uint256 length = uint256(accusation.row) + 1;
        uint256 witness = accusation.witness;
        int256 largest = fields.element(Attention.LARGEST, Attention.FIELD);
        if (Maxima.isOutside(largest, length)) return true;
        Maxima.checkWitness(witness, length);
        TraceTree.needInputs(accusation, 1);
        int256 score = TraceTree.elementAt(
            context,
            _scores(context, accusation, witness / TraceTree.BLOCK),
            witness % TraceTree.BLOCK,
            accusation.inputs[0]
        );
        return Maxima.isContradicted(fields.element(Attention.MAXIMUM, Attention.FIELD), largest, witness, score);
    }

    function _isTotalWrong(Context memory context, Accusation calldata accusation, bytes calldata fields)
        private
        pure
        returns (bool)
    {
        TraceTree.needInputs(accusation, 1);
        uint256 number = accusation.element - Attention.TOTALS;
        bytes calldata scores = TraceTree.leaf(context, _scores(context, accusation, number), accusation.inputs[0]);
        int256 maximum = fields.element(Attention.MAXIMUM, Attention.FIELD);
        uint256 length = Attention.length(accusation.row, number);
        bytes memory table = StepMath.exp2Table();
        unchecked {
            // INVARIANT: a sum goes on from the one before, which can be accused by itself
            int256 total = number == 0 ? int256(0) : fields.element(accusation.element - 1, Attention.FIELD);
            for (uint256 i; i < length; ++i) {
                total += StepMath.weight(scores.element(i, Attention.SCORE), maximum, table);
            }
            return total != context.claimed;
        }
    }

    function _scores(Context memory context, Accusation calldata accusation, uint256 number)
        private
        pure
        returns (Place memory)
    {
        uint256 slot = Attention.join(context, accusation.slot, number);
        return Place(accusation.group, TraceTree.SCORES, accusation.row, slot);
    }
}
