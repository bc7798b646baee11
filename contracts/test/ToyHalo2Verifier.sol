// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IHalo2Verifier} from "../interfaces/IEzklVerifier.sol";

/// @dev Answers as it is told, whatever the proof: yes, no, a revert, or words that are no bool.
contract ToyHalo2Verifier is IHalo2Verifier {
    uint256 public constant YES = 0;
    uint256 public constant NO = 1;
    uint256 public constant REVERT = 2;
    uint256 public constant TWO = 3;
    uint256 public constant NOTHING = 4;
    uint256 public answer;

    function setAnswer(uint256 answer_) external {
        answer = answer_;
    }

    function verifyProof(bytes calldata, uint256[] calldata) external view returns (bool) {
        uint256 told = answer;
        if (told == REVERT) revert();
        assembly ("memory-safe") {
            mstore(0, 2)
            if eq(told, TWO) { return(0, 32) }
            if eq(told, NOTHING) { return(0, 0) }
        }
        return told == YES;
    }
}
