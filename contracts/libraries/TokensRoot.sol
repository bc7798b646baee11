// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Merkle root over token ids
/// @dev Eight ids a leaf, each uint32 big-endian, unused = 0xffffffff. leaf = keccak256(0x00 ‖ word), node =
/// keccak256(left ‖ right), padded with zero words to a power of two. A leaf hashes 33 bytes and a node 64, so neither
/// can pass for the other.
library TokensRoot {
    uint256 internal constant TOKENS_PER_WORD = 8;

    /// @return bytes that `count` ids take
    function packedLength(uint256 count) internal pure returns (uint256) {
        return 32 * ((count + TOKENS_PER_WORD - 1) / TOKENS_PER_WORD);
    }

    /// @notice Whether every slot of the last word after `count` ids is 0xffffffff.
    /// @param packed exactly `packedLength(count)` bytes
    function isFilled(bytes calldata packed, uint256 count) internal pure returns (bool) {
        uint256 used = count % TOKENS_PER_WORD;
        if (used == 0) return true;
        uint256 filler = type(uint256).max >> (32 * used);
        return uint256(bytes32(packed[packed.length - 32:])) & filler == filler;
    }

    /// @param packed a multiple of 32 bytes
    /// @return the root, 0 where there are no ids
    function root(bytes calldata packed) internal pure returns (bytes32) {
        uint256 words = packed.length / 32;
        if (words == 0) return 0;
        uint256 width = 1;
        while (width < words) width <<= 1;
        bytes32[] memory level = new bytes32[](width);
        for (uint256 i; i < words; ++i) {
            level[i] = keccak256(abi.encodePacked(bytes1(0), packed[32 * i:32 * i + 32]));
        }
        for (; width > 1; width >>= 1) {
            for (uint256 i; i < width; i += 2) {
                level[i / 2] = keccak256(abi.encode(level[i], level[i + 1]));
            }
        }
        return level[0];
    }

    /// @notice The same root of ids that are in memory, eight a word.
    function rootOfWords(uint256[] memory words) internal pure returns (bytes32) {
        if (words.length == 0) return 0;
        uint256 width = 1;
        while (width < words.length) width <<= 1;
        bytes32[] memory level = new bytes32[](width);
        for (uint256 i; i < words.length; ++i) {
            level[i] = keccak256(abi.encodePacked(bytes1(0), words[i]));
        }
        for (; width > 1; width >>= 1) {
            for (uint256 i; i < width; i += 2) {
                level[i / 2] = keccak256(abi.encode(level[i], level[i + 1]));
            }
        }
        return level[0];
    }
}
