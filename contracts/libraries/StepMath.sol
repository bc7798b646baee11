// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

import {EXP2} from "./Exp2Table.sol";

/// @title The arithmetic of docs/numerics.md, exact on what an honest provider holds
/// @dev 256 bits hold every intermediate of an honest trace (numerics, section 6), so nothing is checked for overflow:
/// on dishonest values a result may wrap, and whoever is judged then is no honest provider. A divisor of 0 panics.
library StepMath {
    int256 internal constant ACTIVATION_LIMIT = 32_639; // 127 · 256 + 127
    int256 internal constant CACHE_LIMIT = 32_767;
    uint256 internal constant LOG2_E = 94_548; // Q16

    uint256 private constant ONE_Q30 = 1 << 30;

    /// @notice a / 2^n to the nearest integer, halves upward; n ≤ 0 multiplies.
    function rsr(int256 a, int256 n) internal pure returns (int256) {
        unchecked {
            // INVARIANT: `>>` of an int256 is arithmetic: it rounds towards minus infinity
            return n > 0 ? (a + int256(1 << uint256(n - 1))) >> uint256(n) : a << uint256(-n);
        }
    }

    /// @notice floor(a / b) for b > 0.
    function floorDiv(int256 a, int256 b) internal pure returns (int256 quotient) {
        unchecked {
            // INVARIANT: the EVM's division goes towards zero: one less where a negative dividend leaves a rest
            quotient = a / b;
            if (a % b < 0) --quotient;
        }
    }

    function abs(int256 a) internal pure returns (uint256) {
        unchecked {
            return a < 0 ? uint256(-a) : uint256(a);
        }
    }

    /// @notice Number of binary digits: bits(0) = 0, bits(2^k) = k + 1.
    function bits(uint256 a) internal pure returns (uint256) {
        unchecked {
            return a == 0 ? 0 : Math.log2(a) + 1;
        }
    }

    function isqrt(uint256 a) internal pure returns (uint256) {
        return Math.sqrt(a);
    }

    /// @notice max(−limit, min(limit, a))
    function clamp(int256 a, int256 limit) internal pure returns (int256) {
        unchecked {
            return a > limit ? limit : a < -limit ? -limit : a;
        }
    }

    // ---- 3.2: normalise

    /// @notice s of a row.
    /// @param largest max |x|, Q16
    function normShift(uint256 largest) internal pure returns (uint256) {
        unchecked {
            uint256 digits = bits(largest);
            return digits > 22 ? digits - 22 : 0;
        }
    }

    /// @notice v of a row.
    /// @param squares Σ t²
    /// @param width elements of the row
    /// @param epsilon Q32
    function inverseRoot(uint256 squares, uint256 width, uint256 epsilon, uint256 s) internal pure returns (uint256) {
        unchecked {
            uint256 a = squares / width + (epsilon >> (2 * s));
            uint256 root = isqrt(a << 18);
            return (1 << 52) / (root == 0 ? 1 : root);
        }
    }

    /// @return y, Q16
    function normalised(int256 x, int256 s, int256 v, int256 gain) internal pure returns (int256) {
        unchecked {
            int256 n = (rsr(x, s) * v) >> 23;
            return (n * gain + (1 << 15)) >> 16;
        }
    }

    // ---- 3.3: quantise

    /// @notice What y asks of the row's shift: the row's own is the largest.
    function quantiseShift(int256 y) internal pure returns (int256) {
        unchecked {
            uint256 magnitude = abs(y);
            return int256(bits(magnitude == 0 ? 1 : magnitude)) - 15;
        }
    }

    function quantised(int256 y, int256 s) internal pure returns (int256) {
        return clamp(rsr(y, s), ACTIVATION_LIMIT);
    }

    // ---- 3.6

    function toCache(int256 z, uint256 fraction) internal pure returns (int256) {
        unchecked {
            return clamp(rsr(z, int256(16) - int256(fraction)), CACHE_LIMIT);
        }
    }

    // ---- 3.7

    /// @notice Both exp2 tables, for `exp2neg`: once a step, they cost a copy.
    function exp2Table() internal pure returns (bytes memory) {
        return EXP2;
    }

    /// @param d Q16
    /// @param table what `exp2Table` gives
    /// @return power 2^−d, Q30; 0 from 31 · 2^16 on
    function exp2neg(uint256 d, bytes memory table) internal pure returns (uint256 power) {
        assembly ("memory-safe") {
            // entry i is the upper four bytes of what lies at 4i: exp2_high from 0, exp2_low from 1,024
            let high := shr(224, mload(add(add(table, 32), and(shr(6, d), 1020))))
            let low := shr(224, mload(add(add(table, 1056), and(shl(2, d), 1020))))
            let whole := shr(16, d)
            if gt(whole, 31) { whole := 31 }
            power := shr(whole, shr(30, mul(high, low)))
        }
    }

    // ---- 3.8

    /// @param table what `exp2Table` gives
    /// @return wt of a position, Q20
    function weight(int256 score, int256 maximum, bytes memory table) internal pure returns (int256) {
        unchecked {
            return int256(exp2neg(uint256(maximum - score), table) >> 10);
        }
    }

    /// @param num Σ wt · v
    /// @param total Z
    /// @param fraction fv
    /// @return o, Q16
    function mixed(int256 num, int256 total, uint256 fraction) internal pure returns (int256) {
        unchecked {
            return floorDiv(2 * (num << (16 - fraction)) + total, 2 * total);
        }
    }

    // ---- 3.9

    /// @return x · sigmoid(x), Q16
    function silu(int256 x, bytes memory table) internal pure returns (int256) {
        unchecked {
            uint256 power = exp2neg((abs(x) * LOG2_E) >> 16, table);
            uint256 sigmoid = (ONE_Q30 << 30) / (ONE_Q30 + power);
            if (x < 0) sigmoid = ONE_Q30 - sigmoid;
            return (x * int256(sigmoid) + (1 << 29)) >> 30;
        }
    }

    /// @return z of section 4, Q16
    function gated(int256 gate, int256 up, bytes memory table) internal pure returns (int256) {
        unchecked {
            return (silu(gate, table) * up + (1 << 15)) >> 16;
        }
    }
}
