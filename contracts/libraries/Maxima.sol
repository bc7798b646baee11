// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The claim "this is the largest value of the row, and this the lowest index that has it" (docs/disputes.md,
/// section 3)
library Maxima {
    error WitnessOutsideRow(uint256 witness, uint256 length);

    /// @notice Whether no row of this length has that index: then the claim is wrong whatever the values are.
    function isOutside(int256 index, uint256 length) internal pure returns (bool) {
        return index < 0 || uint256(index) >= length;
    }

    function checkWitness(uint256 witness, uint256 length) internal pure {
        // INVARIANT: only an element of the row speaks against the row's maximum
        if (witness >= length) revert WitnessOutsideRow(witness, length);
    }

    /// @notice Whether one element contradicts the claim (`maximum`, `index`).
    /// @dev A true claim is contradicted by no element; of a wrong one with an index inside, either the index itself or
    /// the true maximum's does it.
    function isContradicted(int256 maximum, int256 index, uint256 witness, int256 value) internal pure returns (bool) {
        // INVARIANT: the index has exactly what is claimed
        if (int256(witness) == index) return value != maximum;
        // INVARIANT: nothing is larger, and nothing as large lies lower
        return value > maximum || (value == maximum && int256(witness) < index);
    }
}
