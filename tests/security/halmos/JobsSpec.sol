// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Jobs} from "../../../contracts/Jobs.sol";
import {JobParams, JobState, SignedQuote} from "../../../contracts/interfaces/IJobs.sol";
import {Mode, Output, Quote, Request} from "../../../contracts/interfaces/Wire.sol";
import {Spec} from "./Spec.sol";

/// @dev Remembers whose money a module asked for, and how much went where.
contract RecordingVault {
    uint256 public constant unbondingWindow = 365 days;
    address public constant stakeToken = address(0x7070);
    address public payer; // of the last fund
    uint256 public amount; // of the last fund
    address public bonded; // of the last bond
    uint256 public calls; // of any kind

    function fund(address, address from, uint256 amount_, bytes calldata) external {
        (payer, amount) = (from, amount_);
        ++calls;
    }

    function bond(address owner, uint256) external {
        bonded = owner;
        ++calls;
    }

    function pay(address, address, uint256) external {
        ++calls;
    }

    function unbond(address, uint256) external {
        ++calls;
    }

    function forfeit(address, uint256) external {
        ++calls;
    }
}

/// @dev Whom Jobs may charge. The vault trusts it to ask for money of those only who called or signed.
contract JobsSpec is Spec {
    address internal constant ARBITER = address(0xA4B1);
    uint128 internal constant DEMAND_FEE = 700;

    Jobs internal jobs;
    RecordingVault internal vault;

    function setUp() public {
        vault = new RecordingVault();
        jobs = _jobs(address(vault), ARBITER);
        svm.enableSymbolicStorage(address(jobs));
        _anyTime();
    }

    function _jobs(address vault_, address arbiter) private returns (Jobs) {
        return new Jobs(vault_, address(0x4E6), arbiter, 1 days, 2_000, 1 hours, DEMAND_FEE);
    }

    /// @dev Of any job in any state that the chain does not seed (halmos 0.3.3 fails at `blockhash`): a commitment locks
    /// its sender's own stake and charges nobody else.
    function check_commitBondsTheCallerAlone(address caller, bytes32 jobId, bytes32 commitment) public {
        bytes31 rest = bytes31(uint248(svm.createUint(248, "commitDeadline to revealedAt")));
        bytes32 second = bytes32(uint256(keccak256(abi.encode(jobId, uint256(4)))) + 1); // of the job's words
        vm.store(address(jobs), second, bytes32(abi.encodePacked(uint8(0), rest))); // isSeeded is its first byte
        vm.prank(caller);
        jobs.commit(jobId, commitment);
        assert(vault.bonded() == caller && vault.payer() == address(0) && vault.calls() == 1);
    }

    function check_revealMovesNoMoney(address caller, bytes32 jobId, Output calldata output, bytes32 salt) public {
        vm.prank(caller);
        jobs.reveal(jobId, output, salt);
        assert(vault.calls() == 0);
    }

    function check_onlyTheArbiterFreezes(address caller, bytes32 jobId, address provider, bytes calldata evidence)
        public
    {
        vm.assume(caller != ARBITER);
        vm.prank(caller);
        (bool ok,) = address(jobs).call(abi.encodeCall(jobs.freeze, (jobId, provider, evidence)));
        assert(!ok);
    }

    function check_onlyTheArbiterSlashes(
        address caller,
        bytes32 jobId,
        address provider,
        bool guilty,
        address requester,
        address prover
    ) public {
        vm.assume(caller != ARBITER);
        vm.prank(caller);
        (bool ok,) = address(jobs).call(abi.encodeCall(jobs.resolve, (jobId, provider, guilty, requester, prover)));
        assert(!ok);
    }

    function check_releaseBondChargesNobody(address caller, bytes32 jobId, address provider) public {
        vm.prank(caller);
        jobs.releaseBond(jobId, provider);
        assert(vault.bonded() == address(0) && vault.payer() == address(0) && vault.calls() <= 2);
    }

    /// @dev Of any job in any state: whoever demands pays the fee, and nobody else does.
    function check_demandChargesTheCallerAlone(address caller, bytes32 jobId, address provider) public {
        vm.prank(caller);
        jobs.demandReveal(jobId, provider, "");
        assert(vault.payer() == caller && vault.bonded() == address(0));
        (uint256 fee, uint256 price) = jobs.demandCostOf(jobId, provider);
        assert(vault.amount() == fee + price && fee % DEMAND_FEE == 0);
        assert(vault.calls() == 1);
    }

    /// @dev Of any final job.
    function check_slashWithheldOfFinalJobChargesNobody(address caller, bytes32 jobId, address provider) public {
        uint40 finalAt = uint40(svm.createUint(40, "finalAt"));
        vm.assume(finalAt != 0);
        _write(jobId, abi.encodePacked(finalAt, bytes27(uint216(svm.createUint(216, "the rest")))));
        _slashWithheld(caller, jobId, provider);
    }

    /// @dev Of any other job: one that pays late, so OPTIMISTIC, of one replica, which was revealed (`post` and
    /// `demandReveal`). Its escrow goes back, for which all replicas are copied to memory, and halmos follows no copy
    /// whose length is free.
    function check_slashWithheldBeforePaymentChargesNobody(address caller, bytes32 jobId, address provider) public {
        bytes4 counts = bytes4(uint32(svm.createUint(32, "agreedBy, revealed, committed, quorum")));
        address client = address(uint160(svm.createUint(160, "client")));
        (bytes3 above, bytes1 quorum) = (bytes3(counts), bytes1(counts << 24));
        _write(jobId, abi.encodePacked(uint40(0), above, uint8(1), quorum, Mode.OPTIMISTIC, JobState.REVEALING, client));
        _slashWithheld(caller, jobId, provider);
    }

    function _slashWithheld(address caller, bytes32 jobId, address provider) private {
        vm.prank(caller);
        jobs.slashWithheld(jobId, provider);
        assert(vault.bonded() == address(0) && vault.payer() == address(0));
    }

    /// @dev Writes the first word of a job; all others stay free. Written elsewhere it would change nothing: then halmos
    /// meets the copy whose length is free again, and the specification fails.
    function _write(bytes32 jobId, bytes memory word) private {
        assert(word.length == 32);
        vm.store(address(jobs), keccak256(abi.encode(jobId, uint256(4))), bytes32(word)); // slot 4: _jobs
    }

    /// @dev A job of one replica, every number of which is free: posted only by a caller that pays itself, on a quote
    /// that its provider signed, for this caller, this model and this request, unexpired.
    function check_postNeedsTheProvidersSignature(
        address caller,
        Request calldata request,
        Quote calldata quote,
        bytes32 r,
        bytes32 s,
        uint8 v,
        uint128 maxEscrow
    ) public {
        vm.assume(quote.provider.code.length == 0);
        JobParams memory params;
        params.mode = Mode.NONE;
        params.quorum = 1;
        params.maxEscrow = maxEscrow;
        (params.commitWindow, params.revealWindow) = (60, 60);
        params.request = request;
        params.quotes = new SignedQuote[](1);
        params.quotes[0] = SignedQuote(quote, abi.encodePacked(r, s, v));
        bytes32 digest = jobs.hashQuote(quote);
        bytes32 requestHash = jobs.hashRequest(request);
        assert(vault.calls() == 0);
        vm.prank(caller);
        jobs.post(params);
        assert(vault.payer() == caller && vault.bonded() == address(0) && vault.calls() == 1);
        assert(quote.provider != address(0) && ecrecover(digest, v, r, s) == quote.provider);
        assert(quote.client == address(0) || quote.client == caller);
        assert(quote.modelId == request.modelId && quote.validUntil >= block.timestamp);
        assert(quote.requestHash == 0 || quote.requestHash == requestHash);
        assert(quote.mode == uint8(Mode.NONE) && jobs.quoteUsed(digest, caller));
    }
}
