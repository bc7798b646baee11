// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IArbiter} from "../interfaces/IArbiter.sol";
import {ISubject} from "../interfaces/ISubject.sol";

/// @dev An arbiter without a game: somebody says who is guilty. It remembers what the subject told it.
contract ToyArbiter is IArbiter {
    struct Told {
        bytes32 modelId;
        bytes32 requestHash;
        bytes32 outputHash;
        uint256 bond;
        address challenger;
    }

    mapping(bytes32 subjectId => mapping(address provider => Told)) public told;

    function implementsProgram(bytes32) external pure returns (bool) {
        return true;
    }

    function dispute(ISubject subject, bytes32 subjectId, address provider, bytes calldata evidence) external {
        Told storage record = told[subjectId][provider];
        (record.modelId, record.requestHash, record.outputHash, record.bond) =
            subject.freeze(subjectId, provider, evidence);
        record.challenger = msg.sender;
        emit DisputeOpened(subject, subjectId, provider, msg.sender);
    }

    function decide(ISubject subject, bytes32 subjectId, address provider, bool guilty) external {
        subject.resolve(subjectId, provider, guilty, told[subjectId][provider].challenger);
        emit DisputeResolved(subject, subjectId, provider, guilty);
    }
}
