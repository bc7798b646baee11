// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Σ a·w of a row of int16 and a row of int8 (docs/numerics.md 3.4), eight products a multiplication
/// @dev Both are shifted to be unsigned: a + 2^15, w + 2^7. Eight numbers lie in one word, 32 bits each, those of the
/// weights in reverse; bits 224 to 255 of the product of two such words are the sum of eight products, below 2^27, and no
/// lane below overflows into it. What the shifts added is taken off at the end by the sums of both rows.
library DotProduct {
    /// @param a int16 each; what follows it in calldata meets weights of zero
    /// @param w int8 each, zeros up to a multiple of 32; at most 2^14
    function sum(bytes calldata a, bytes calldata w) internal pure returns (int256 total) {
        assembly ("memory-safe") {
            // every second 16 bits, every fourth byte
            let pairs := 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff
            let bytes4 := 0x000000ff000000ff000000ff000000ff000000ff000000ff000000ff000000ff
            let sumA := 0
            let sumW := 0
            let atA := a.offset
            let end := add(w.offset, w.length)
            for { let atW := w.offset } lt(atW, end) { atW := add(atW, 32) } {
                let weights :=
                    xor(calldataload(atW), 0x8080808080808080808080808080808080808080808080808080808080808080)
                // 16 weights of each half meet 16 activations
                for { let half := 128 } lt(half, 129) { half := sub(half, 128) } {
                    // pairs of weights at every 16 bits, first ones highest → every 32 bits, first ones lowest
                    let x := shr(half, weights)
                    x := or(and(shr(64, x), 0xffffffffffffffff), shl(128, and(x, 0xffffffffffffffff)))
                    x := or(
                        and(shr(32, x), 0x00000000000000000000000000ffffffff000000000000000000000000ffffffff),
                        shl(64, and(x, 0x00000000000000000000000000ffffffff000000000000000000000000ffffffff))
                    )
                    x := or(
                        and(shr(16, x), 0x000000000000ffff000000000000ffff000000000000ffff000000000000ffff),
                        shl(32, and(x, 0x000000000000ffff000000000000ffff000000000000ffff000000000000ffff))
                    )
                    // the first of a pair is the higher byte
                    let first := and(shr(8, x), bytes4)
                    let second := and(x, bytes4)
                    sumW := add(sumW, add(first, second))
                    x := xor(calldataload(atA), 0x8000800080008000800080008000800080008000800080008000800080008000)
                    atA := add(atA, 32)
                    total := add(total, shr(224, mul(and(shr(16, x), pairs), first)))
                    total := add(total, shr(224, mul(and(x, pairs), second)))
                    sumA := add(sumA, add(and(shr(16, x), pairs), and(x, pairs)))
                }
            }
            let ones := 0x0000000100000001000000010000000100000001000000010000000100000001
            sumA := shr(224, mul(sumA, ones))
            sumW := shr(224, mul(sumW, ones))
            // Σ (a + 2^15)(w + 2^7) = Σ a·w + 2^7 Σ (a + 2^15) + 2^15 Σ (w + 2^7) − n · 2^22
            total := add(sub(sub(total, shl(7, sumA)), shl(15, sumW)), shl(22, w.length))
        }
    }
}
