// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {IJudge} from "../interfaces/IJudge.sol";
import {Opening} from "../interfaces/Trace.sol";

/// @title Openings of binary Merkle trees, and the numbers in their leaves
/// @dev leaf = keccak256(0x00 ‖ payload), node = keccak256(left ‖ right). Payloads are multiples of 32 bytes, so a leaf
/// hashes 32k + 1 bytes and a node 64: neither can pass for the other. Nothing is copied but into memory that keccak256
/// reads.
library Openings {
    /// @return ⌈log2 n⌉, 0 for n ≤ 1
    function bitsFor(uint256 n) internal pure returns (uint256) {
        unchecked {
            return n <= 1 ? 0 : Math.log2(n - 1) + 1;
        }
    }

    function padded(uint256 length) internal pure returns (uint256) {
        unchecked {
            return (length + 31) & ~uint256(31);
        }
    }

    /// @notice Checks that the opening is that of leaf `index` of a tree of that depth, with a payload of `used` bytes
    /// and zeros up to a multiple of 32.
    function check(Opening calldata opening, bytes32 root, uint256 depth, uint256 index, uint256 used)
        internal
        pure
        returns (bytes calldata payload)
    {
        payload = opening.payload;
        checkLength(payload, padded(used));
        // INVARIANT: an input has one form only
        if (!isZeroFrom(payload, used)) revert IJudge.PaddingNotZero();
        checkPath(leafHash(payload), root, depth, index, opening.path);
    }

    function checkLength(bytes calldata payload, uint256 expected) internal pure {
        // INVARIANT: a payload has the length of its place
        if (payload.length != expected) revert IJudge.PayloadMisfit(expected, payload.length);
    }

    /// @notice Checks that `node` is number `index` of those at `depth` under the root.
    function checkPath(bytes32 node, bytes32 root, uint256 depth, uint256 index, bytes32[] calldata path)
        internal
        pure
    {
        // INVARIANT: a path has the length of its place, so that no inner node passes for another one
        if (path.length != depth) revert IJudge.PathMisfit(depth, path.length);
        bytes32 got = fold(node, index, path);
        // INVARIANT: what is opened lies under the root, at the index that the contract computed
        if (got != root) revert IJudge.OpeningMismatch(root, got);
    }

    /// @notice Whether the payload's bytes from `used` on are zeros; at most 31 of them.
    function isZeroFrom(bytes calldata payload, uint256 used) internal pure returns (bool zero) {
        assembly ("memory-safe") {
            let rest := sub(payload.length, used)
            // a shift by 256 or more leaves nothing, which is right for no rest
            zero := iszero(shr(shl(3, sub(32, rest)), calldataload(add(payload.offset, used))))
        }
    }

    function leafHash(bytes calldata payload) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            let free := mload(64)
            mstore8(free, 0)
            calldatacopy(add(free, 1), payload.offset, payload.length)
            hash := keccak256(free, add(payload.length, 1))
        }
    }

    /// @return root of the tree in which `node` is number `index` of its level and has these siblings, lowest first
    function fold(bytes32 node, uint256 index, bytes32[] calldata path) internal pure returns (bytes32 root) {
        assembly ("memory-safe") {
            root := node
            let end := add(path.offset, shl(5, path.length))
            for { let at := path.offset } lt(at, end) { at := add(at, 32) } {
                let side := shl(5, and(index, 1))
                mstore(side, root)
                mstore(xor(side, 32), calldataload(at))
                root := keccak256(0, 64)
                index := shr(1, index)
            }
        }
    }

    /// @notice Root of a row's leaves, filled up with EMPTY to 2^bits.
    /// @param payload of all leaves, one after the other
    /// @param first bytes of the first leaf
    /// @param other bytes of every other leaf; the last has what is left
    function rowHash(bytes calldata payload, uint256 first, uint256 other, uint256 bits)
        internal
        pure
        returns (bytes32 node)
    {
        assembly ("memory-safe") {
            let hashes := mload(64)
            // after the leaves of a full row and one EMPTY
            let scratch := add(add(hashes, 32), shl(5, shl(bits, 1)))
            mstore8(scratch, 0)
            let count := 0
            let size := first
            let end := add(payload.offset, payload.length)
            for { let at := payload.offset } lt(at, end) { at := add(at, size) } {
                if count { size := other }
                if gt(add(at, size), end) { size := sub(end, at) }
                calldatacopy(add(scratch, 1), at, size)
                mstore(add(hashes, shl(5, count)), keccak256(scratch, add(size, 1)))
                count := add(count, 1)
            }
            let empty := 0
            for {} bits { bits := sub(bits, 1) } {
                if and(count, 1) {
                    mstore(add(hashes, shl(5, count)), empty)
                    count := add(count, 1)
                }
                count := shr(1, count)
                for { let i := 0 } lt(i, count) { i := add(i, 1) } {
                    mstore(add(hashes, shl(5, i)), keccak256(add(hashes, shl(6, i)), 64))
                }
                mstore(0, empty)
                mstore(32, empty)
                empty := keccak256(0, 64)
            }
            node := mload(hashes)
        }
    }

    /// @return value of element `index` of big-endian two's complement numbers of `width` bytes. Whoever calls knows that
    /// the payload has that many.
    function element(bytes calldata payload, uint256 index, uint256 width) internal pure returns (int256 value) {
        assembly ("memory-safe") {
            value := sar(sub(256, shl(3, width)), calldataload(add(payload.offset, mul(index, width))))
        }
    }
}
