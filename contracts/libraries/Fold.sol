// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Nodes of a trace's tree from whole levels of it: node = keccak256(left ‖ right)
library Fold {
    function pair(bytes32 left, bytes32 right) internal pure returns (bytes32 node) {
        assembly ("memory-safe") {
            mstore(0, left)
            mstore(0x20, right)
            node := keccak256(0, 0x40)
        }
    }

    /// @param hashes of a whole level, a power of two of them
    /// @return top the node above them all
    function level(bytes32[] memory hashes) internal pure returns (bytes32 top) {
        for (uint256 width = hashes.length; width > 1; width >>= 1) {
            assembly ("memory-safe") {
                let first := add(hashes, 0x20)
                let end := add(first, shl(4, width))
                for { let at := first } lt(at, end) { at := add(at, 0x20) } {
                    mstore(at, keccak256(add(first, shl(1, sub(at, first))), 0x40))
                }
            }
        }
        return hashes[0];
    }

    /// @return node EMPTY, `height` levels above where it is 0
    function empty(uint256 height) internal pure returns (bytes32 node) {
        for (uint256 i; i < height; ++i) {
            node = pair(node, node);
        }
    }
}
