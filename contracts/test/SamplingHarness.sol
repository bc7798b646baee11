// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @dev The sampler of docs/numerics.md, section 10, as a dispute would compute it: what one token's noise costs, and
/// that the EVM gives the published vectors. No contract of the market uses it yet.
contract SamplingHarness {
    uint256 private constant LN2_Q96 = 54_916_777_467_707_473_351_141_471_128;
    uint256 private constant ONE = 1 << 64;

    function draw(bytes32 seed, uint32 position) public pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, position)));
    }

    function tokenHash(uint256 number, uint32 token) public pure returns (uint256 z) {
        unchecked {
            uint64 a = uint64(number) + uint64(token) * 0x9E3779B97F4A7C15;
            a = (a ^ (a >> 30)) * 0xBF58476D1CE4E5B9;
            a = (a ^ (a >> 27)) * 0x94D049BB133111EB;
            z = (a ^ (a >> 31)) | 1;
        }
    }

    /// @return −ln(x / 2^fraction) in Q96
    function minusLn(uint256 x, uint256 fraction) public pure returns (int256) {
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

    /// @return Q20
    function gumbel(uint256 h) public pure returns (int256) {
        unchecked {
            return (minusLn(uint256(minusLn(ONE - h, 64)), 96) + (1 << 75)) >> 76;
        }
    }

    /// @return whether token j would have been taken rather than token o
    function beats(bytes32 seed, uint32 position, uint32 temperature, uint32 j, int256 logitJ, uint32 o, int256 logitO)
        external
        pure
        returns (bool)
    {
        uint256 number = draw(seed, position);
        int256 keyJ = _key(number, temperature, j, logitJ);
        int256 keyO = _key(number, temperature, o, logitO);
        return keyJ > keyO || (keyJ == keyO && j < o);
    }

    function _key(uint256 number, uint32 temperature, uint32 token, int256 logit) private pure returns (int256) {
        unchecked {
            return (logit << 20) + int256(uint256(temperature)) * gumbel(tokenHash(number, token));
        }
    }
}
