// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ProofJobs} from "../../../contracts/ProofJobs.sol";
import {ProofJobParams, ProofJobState, ProofJobView} from "../../../contracts/interfaces/IProofJobs.sol";
import {SignedQuote} from "../../../contracts/interfaces/IJobs.sol";
import {Statement} from "../../../contracts/interfaces/IProofVerifier.sol";
import {Mode, Quote, Request} from "../../../contracts/interfaces/Wire.sol";
import {MoneyVault} from "./MoneyVault.sol";
import {Spec} from "./Spec.sol";

/// @dev Knows every model, and says yes or no as the specification wants.
contract AnyVerifier {
    bool public yes;

    function shapeOf(bytes32) external pure returns (uint32, uint32) {
        return (64, 10);
    }

    function verify(Statement calldata, bytes calldata, bytes calldata) external view returns (bool) {
        return yes;
    }
}

/// @dev The money of proof jobs, from any state whatever: an escrow comes from who posts, and leaves whole and once, to
/// the provider against a proof or back to the client after the deadline.
contract ProofJobsSpec is Spec {
    MoneyVault internal vault;
    AnyVerifier internal verifier;
    ProofJobs internal jobs;

    function setUp() public {
        vault = new MoneyVault();
        verifier = new AnyVerifier();
        jobs = new ProofJobs(address(vault), address(verifier));
        svm.enableSymbolicStorage(address(jobs));
        svm.enableSymbolicStorage(address(verifier));
        _anyTime();
    }

    function check_settlePaysTheProviderAgainstAProof(
        address caller,
        bytes32 jobId,
        Request calldata request,
        bytes32 word,
        bytes32 otherId
    ) public {
        vm.assume(otherId != jobId);
        (ProofJobView memory a, ProofJobView memory other) = (jobs.job(jobId), jobs.job(otherId));
        vm.prank(caller);
        jobs.settle(jobId, request, abi.encodePacked(word), "");
        ProofJobView memory b = jobs.job(jobId);
        assert(verifier.yes() && caller == a.provider && block.timestamp <= a.proofDeadline);
        assert(a.requestHash == b.requestHash && b.outputHash != 0);
        _ended(a, b, ProofJobState.SETTLED, a.provider);
        _same(jobs.job(otherId), other);
        _endsOnce(caller, jobId, request);
    }

    function check_expirePaysTheClientAfterTheDeadline(
        address caller,
        bytes32 jobId,
        Request calldata request,
        bytes32 otherId
    ) public {
        vm.assume(otherId != jobId);
        (ProofJobView memory a, ProofJobView memory other) = (jobs.job(jobId), jobs.job(otherId));
        vm.prank(caller);
        jobs.expire(jobId);
        assert(block.timestamp > a.proofDeadline);
        _ended(a, jobs.job(jobId), ProofJobState.EXPIRED, a.client);
        _same(jobs.job(otherId), other);
        _endsOnce(caller, jobId, request);
    }

    /// @dev Every number of the quote is free, and the time any in which 40 bits hold the deadline (34,000 years).
    function check_postNeedsTheProvidersSignature(
        address caller,
        Request calldata request,
        Quote calldata quote,
        bytes32 r,
        bytes32 s,
        uint8 v,
        uint128 maxEscrow
    ) public {
        vm.assume(quote.provider.code.length == 0 && block.timestamp < 1 << 39);
        ProofJobParams memory params;
        (params.maxEscrow, params.proofWindow, params.request) = (maxEscrow, 60, request);
        params.quote = SignedQuote(quote, abi.encodePacked(r, s, v));
        bytes32 jobId = jobs.jobIdOf(caller, jobs.clientNonce(caller));
        vm.prank(caller);
        assert(jobs.post(params) == jobId);
        ProofJobView memory b = jobs.job(jobId);
        assert(vault.calls() == 1 && vault.payer() == caller && vault.paidIn() == b.escrow);
        assert(b.escrow <= maxEscrow && b.client == caller && b.provider == quote.provider);
        assert(b.state == ProofJobState.OPEN && b.proofDeadline == block.timestamp + 60);
        assert(quote.provider != address(0) && quote.mode == uint8(Mode.PROOF));
        assert(quote.client == address(0) || quote.client == caller);
        assert(quote.modelId == request.modelId && quote.validUntil >= block.timestamp);
        assert(quote.bond == 0 && quote.missFee == 0 && quote.killFee == 0);
    }

    function _ended(ProofJobView memory a, ProofJobView memory b, ProofJobState state, address payee) private view {
        assert(a.state == ProofJobState.OPEN && b.state == state && b.escrow == a.escrow);
        assert(vault.paidOut() == a.escrow && vault.paidTo(payee) == a.escrow && vault.paidIn() == 0);
    }

    function _endsOnce(address caller, bytes32 jobId, Request calldata request) private {
        vm.prank(caller);
        (bool settled,) = address(jobs).call(abi.encodeCall(jobs.settle, (jobId, request, "", "")));
        vm.prank(caller);
        (bool expired,) = address(jobs).call(abi.encodeCall(jobs.expire, (jobId)));
        assert(!settled && !expired);
    }

    function _same(ProofJobView memory a, ProofJobView memory b) private pure {
        assert(a.client == b.client && a.state == b.state && a.provider == b.provider);
        assert(a.proofDeadline == b.proofDeadline && a.escrow == b.escrow);
        assert(a.requestHash == b.requestHash && a.outputHash == b.outputHash);
    }
}
