// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Context, TraceTree} from "./TraceTree.sol";

/// @title What the steps of attention share: heads, blocks of positions, fields (docs/disputes.md, section 2)
library Attention {
    // bytes of an element
    uint256 internal constant CACHED = 2; // ROTATE_QUERY, ROTATE_KEY, VALUE
    uint256 internal constant SCORE = 5;
    uint256 internal constant FIELD = 8; // SOFTMAX
    uint256 internal constant SUM = 6; // MIX_SUM

    // fields of SOFTMAX
    uint256 internal constant MAXIMUM = 0;
    uint256 internal constant LARGEST = 1;
    uint256 internal constant TOTALS = 2; // Z up to and with block 0, 1, …

    /// @notice What a slot of SCORES and MIX_SUM stands for.
    function split(Context memory context, uint256 slot) internal pure returns (uint256 head, uint256 number) {
        uint256 bits = TraceTree.blockBits(context);
        head = slot >> bits;
        number = slot & ((1 << bits) - 1);
    }

    /// @return slot of a head's block in SCORES and MIX_SUM
    function join(Context memory context, uint256 head, uint256 number) internal pure returns (uint256 slot) {
        slot = (head << TraceTree.blockBits(context)) | number;
    }

    /// @return the key/value head that a query head reads
    function source(Context memory context, uint256 head) internal pure returns (uint256) {
        unchecked {
            return head / (context.shape.heads / context.shape.kvHeads);
        }
    }

    /// @notice How many positions of a block are not after `position`, which is the block's own or later.
    function length(uint256 position, uint256 number) internal pure returns (uint256) {
        unchecked {
            uint256 left = position + 1 - TraceTree.BLOCK * number;
            return left < TraceTree.BLOCK ? left : TraceTree.BLOCK;
        }
    }
}
