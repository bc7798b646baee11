// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IArbiter} from "../interfaces/IArbiter.sol";
import {Frozen, ISubject} from "../interfaces/ISubject.sol";
import {Model, Request} from "../interfaces/Wire.sol";

/// @dev An arbiter without a game: somebody says who is guilty. It remembers what the subject told it, and judges every
/// model but those whose tables root is 0.
contract ToyArbiter is IArbiter {
    struct Told {
        bytes32 modelId;
        bytes32 requestHash;
        bytes32 outputHash;
        uint256 bond;
        uint64 disputeEnd;
        bytes32 seed;
        address challenger;
    }

    mapping(bytes32 subjectId => mapping(address provider => Told)) public told;

    function canJudge(Model calldata model, Request calldata) external pure returns (bool) {
        return model.tablesRoot != 0;
    }

    function dispute(ISubject subject, bytes32 subjectId, address provider, bytes calldata evidence) external {
        Frozen memory frozen = subject.freeze(subjectId, provider, evidence);
        told[subjectId][provider] = Told({
            modelId: frozen.modelId,
            requestHash: frozen.requestHash,
            outputHash: frozen.outputHash,
            bond: frozen.bond,
            disputeEnd: frozen.disputeEnd,
            seed: frozen.seed,
            challenger: msg.sender
        });
        emit DisputeOpened(subject, subjectId, provider, msg.sender);
    }

    /// @param prover gets half of the reward, who opened the dispute the other half
    function decide(ISubject subject, bytes32 subjectId, address provider, bool guilty, address prover) external {
        subject.resolve(subjectId, provider, guilty, told[subjectId][provider].challenger, prover);
        emit DisputeResolved(subject, subjectId, provider, guilty);
    }
}
