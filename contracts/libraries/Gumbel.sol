// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title The draw of docs/numerics.md, sections 10.3 to 10.5: the token with the largest key is taken
library Gumbel {
    uint256 private constant LN2_Q96 = 54_916_777_467_707_473_351_141_471_128;
    uint256 private constant ONE = 1 << 64;

    /// @return R of an output position; the first output token is position 0
    function draw(bytes32 seed, uint32 position) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, position)));
    }

    /// @return z odd, 64 bits
    function tokenHash(uint256 number, uint32 token) internal pure returns (uint256 z) {
        unchecked {
            uint64 a = uint64(number) + uint64(token) * 0x9E3779B97F4A7C15;
            a = (a ^ (a >> 30)) * 0xBF58476D1CE4E5B9;
            a = (a ^ (a >> 27)) * 0x94D049BB133111EB;
            z = (a ^ (a >> 31)) | 1;
        }
    }

    /// @param x from 1
    /// @return −ln(x / 2^fraction) in Q96
    function minusLn(uint256 x, uint256 fraction) internal pure returns (int256) {
        unchecked {
            uint256 bits = Math.log2(x) + 1;
            uint256 w = ONE - (bits > 64 ? x >> (bits - 64) : x << (64 - bits));
            uint256 s = (w << 96) / ((1 << 65) - w);
            uint256 q = (s * s) >> 128;
            uint256 p = ONE / 15;
            p = ONE / 13 + ((p * q) >> 64);
            p = ONE / 11 + ((p * q) >> 64);
            p = ONE / 9 + ((p * q) >> 64);
            p = ONE / 7 + ((p * q) >> 64);
            p = ONE / 5 + ((p * q) >> 64);
            p = ONE / 3 + ((p * q) >> 64);
            p = ONE + ((p * q) >> 64);
            return (int256(fraction) - int256(bits)) * int256(LN2_Q96) + int256((s * p) >> 63);
        }
    }

    /// @param h odd, 64 bits
    /// @return the noise of a token, Q20
    function noise(uint256 h) internal pure returns (int256) {
        unchecked {
            return (minusLn(uint256(minusLn(ONE - h, 64)), 96) + (1 << 75)) >> 76;
        }
    }

    /// @param number what `draw` gives
    /// @param temperature Q16
    /// @param logit Q16
    function key(uint256 number, uint32 temperature, uint32 token, int256 logit) internal pure returns (int256) {
        unchecked {
            return (logit << 20) + int256(uint256(temperature)) * noise(tokenHash(number, token));
        }
    }
}
