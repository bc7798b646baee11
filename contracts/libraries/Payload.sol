// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Elements of a leaf's payload: big-endian two's complement, one after the other (docs/disputes.md, section 2)
library Payload {
    error NoSuchElement(uint256 index, uint256 payloadBytes);

    /// @param width bytes of an element: 1, 2, 4, 5, 6 or 8
    function element(bytes calldata payload, uint256 index, uint256 width) internal pure returns (int256 value) {
        unchecked {
            // INVARIANT: nothing beside the payload is read: what follows it in calldata is the prover's own choice
            if (index >= payload.length / width) revert NoSuchElement(index, payload.length);
        }
        assembly ("memory-safe") {
            let bitsLeft := sub(256, shl(3, width))
            value := sar(bitsLeft, calldataload(add(payload.offset, mul(index, width))))
        }
    }
}
