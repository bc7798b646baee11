// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Attention} from "../libraries/Attention.sol";
import {Openings} from "../libraries/Openings.sol";
import {StepMath} from "../libraries/StepMath.sol";
import {Context, Place, TraceTree} from "../libraries/TraceTree.sol";

/// @title SCORES: a query's product with the key of one position up to its own (docs/numerics.md 3.8)
library Scores {
    using Openings for bytes;

    /// @dev Inputs: ROTATE_QUERY leaf, ROTATE_KEY leaf of position u.
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        TraceTree.needInputs(accusation, 2);
        (uint256 head, uint256 number) = Attention.split(context, accusation.slot);
        Place memory ofQuery = Place(accusation.group, TraceTree.ROTATE_QUERY, accusation.row, head);
        bytes calldata query = TraceTree.leaf(context, ofQuery, accusation.inputs[0]);
        // INVARIANT: the key is that of the element's own position, of the head that this query reads
        uint256 u = TraceTree.BLOCK * number + accusation.element;
        Place memory ofKey = Place(accusation.group, TraceTree.ROTATE_KEY, u, Attention.source(context, head));
        bytes calldata key = TraceTree.leaf(context, ofKey, accusation.inputs[1]);
        uint256 size = context.shape.headSize;
        unchecked {
            int256 dot;
            for (uint256 i; i < size; ++i) {
                dot += query.element(i, Attention.CACHED) * key.element(i, Attention.CACHED);
            }
            uint256 shift = uint256(context.format.queryFraction) + context.format.keyFraction + 2;
            int256 product = dot * int256(uint256(context.shape.scoreMultiplier));
            return StepMath.rsr(product, int256(shift)) != context.claimed;
        }
    }
}
