// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IArbiter} from "../interfaces/IArbiter.sol";
import {BondState, IJobs, JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {IRegistry} from "../interfaces/IRegistry.sol";
import {Frozen} from "../interfaces/ISubject.sol";
import {IVault} from "../interfaces/IVault.sol";
import {Mode, Output, Receipt, Request} from "../interfaces/Wire.sol";
import {Demands} from "./Demands.sol";
import {JobChecks} from "./JobChecks.sol";
import {Job, JobRecords, Replica} from "./JobRecords.sol";
import {Payout} from "./Payout.sol";
import {WireHash} from "./WireHash.sol";

/// @dev What a slashed bond is divided by, and where.
struct Slashing {
    address vault;
    address token;
    uint256 shareBps;
    uint256 demandFee;
}

/// @title What disputes do to a job and to the bond of its replica
/// @dev Linked to Jobs and run in its storage. All is written and emitted before the vault moves anything.
library Verdicts {
    using JobChecks for Job;
    using JobChecks for Replica;
    using JobRecords for Job;

    address private constant BURNT = address(0xdead);

    /// @notice Checks that a wrong answer to a request can be proved wrong: what OPTIMISTIC lives on.
    function checkJudged(Request calldata request, address registry, address arbiter) external view {
        // INVARIANT: nobody is sold a guarantee that no arbiter can keep
        if (arbiter == address(0) || !IArbiter(arbiter).canJudge(IRegistry(registry).models(request.modelId), request))
        {
            revert IJobs.NotJudged(request.modelId, request.sampler);
        }
    }

    function freeze(Job storage job, bytes32 jobId, address provider, bytes calldata evidence, uint256 disputeWindow)
        external
        returns (Frozen memory)
    {
        // INVARIANT: money that is still being divided is not disputed; OPTIMISTIC divides none before its window is over
        if (job.finalAt == 0 && job.mode != Mode.OPTIMISTIC) {
            revert IJobs.WrongState(jobId, job.state, JobState.SETTLED);
        }
        Replica storage replica = job.replicas[job.indexOf(jobId, provider)];
        // INVARIANT: only an output that was revealed can be disputed, once at a time, inside the window
        if (replica.state != ReplicaState.REVEALED && replica.state != ReplicaState.LATE) {
            revert IJobs.WrongReplicaState(jobId, provider, replica.state, ReplicaState.REVEALED);
        }
        replica.needBond(jobId, BondState.LOCKED);
        uint256 disputeEnd = job.disputeEnd(replica, disputeWindow);
        JobChecks.notAfter(jobId, disputeEnd);
        bytes32 got = WireHash.encodedRequest(evidence);
        // INVARIANT: what is judged is the request that was paid for
        if (got != job.requestHash) revert IJobs.EvidenceMismatch(job.requestHash, got);

        replica.bondState = BondState.DISPUTED;
        emit IJobs.BondFrozen(jobId, provider);
        return Frozen({
            modelId: job.modelId,
            requestHash: job.requestHash,
            outputHash: replica.digest,
            bond: replica.terms.bond,
            disputeEnd: uint64(disputeEnd),
            seed: job.seed
        });
    }

    /// @param evidence abi.encode(Receipt, signature)
    /// @param separator of the domain in which receipts of jobs are signed
    function contradicts(Job storage job, bytes32 jobId, address provider, bytes calldata evidence, bytes32 separator)
        external
        view
        returns (bool)
    {
        (Receipt memory receipt, bytes memory signature) = abi.decode(evidence, (Receipt, bytes));
        Output memory output = Output(receipt.outputRoot, receipt.outputTokens, receipt.finish);
        // INVARIANT: a receipt speaks against its signer only where it answers this job, and answers it otherwise
        if (receipt.subjectId != jobId || receipt.requestHash != job.requestHash) return false;
        if (WireHash.outputInMemory(output) == job.replicas[job.indexOf(jobId, provider)].digest) return false;
        bytes32 digest = MessageHashUtils.toTypedDataHash(separator, WireHash.receiptInMemory(receipt));
        return SignatureChecker.isValidSignatureNow(provider, digest, signature);
    }

    /// @notice Takes the bond of a replica and divides it, and ends a demand of its output that is still open; whoever
    /// paid the output's price gets it back. A job that has not paid yet (OPTIMISTIC) gives the client its escrow back.
    /// @param requester gets half of the challengers' share, `prover` the rest of it
    function slash(
        Job storage job,
        bytes32 jobId,
        uint256 index,
        address requester,
        address prover,
        Slashing memory rules
    ) external {
        Replica memory replica = job.replicas[index];
        uint256 refund = Payout.payment(replica, job.state, job.agreedOutput(), job.inputTokens, job.maxOutputTokens);
        (uint256 reward, uint256 burnt) = Payout.slash(replica.terms.bond, refund, rules.shareBps);
        // INVARIANT: a bond is lost once
        job.replicas[index].bondState = BondState.SLASHED;
        emit IJobs.BondSlashed(jobId, replica.provider, prover, requester, refund, reward, burnt);
        address demander = Demands.close(job, jobId, index);
        (address buyer, uint256 price) = Demands.sold(job, jobId, index, false);
        if (job.finalAt == 0) refund += _revoke(job, jobId);

        IVault(rules.vault).forfeit(replica.provider, replica.terms.bond);
        _pay(job.client, refund, rules);
        if (requester != prover) _pay(requester, reward / 2, rules);
        _pay(prover, requester == prover ? reward : reward - reward / 2, rules);
        _pay(BURNT, burnt, rules);
        _pay(buyer, price, rules);
        if (demander != address(0)) {
            _pay(demander, Payout.demandFee(rules.demandFee, replica.outputTokens), rules);
        }
    }

    /// @return refunded the whole escrow
    function _revoke(Job storage job, bytes32 jobId) private returns (uint256 refunded) {
        refunded = Payout.escrow(job.load(), job.inputTokens, job.maxOutputTokens);
        // INVARIANT: a wrong answer is not paid
        (job.state, job.finalAt) = (JobState.EXPIRED, uint40(block.timestamp));
        emit IJobs.Expired(jobId, 0, refunded, 0);
    }

    function _pay(address to, uint256 amount, Slashing memory rules) private {
        if (amount != 0) IVault(rules.vault).pay(rules.token, to, amount);
    }
}
