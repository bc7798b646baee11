// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {
    BondState,
    IJobs,
    JobParams,
    JobState,
    JobView,
    ReplicaState,
    ReplicaView,
    SignedQuote
} from "./interfaces/IJobs.sol";
import {Frozen, ISubject} from "./interfaces/ISubject.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Commitment, Mode, Output, Quote, Request} from "./interfaces/Wire.sol";
import {Demands} from "./libraries/Demands.sol";
import {Draws} from "./libraries/Draws.sol";
import {JobChecks} from "./libraries/JobChecks.sol";
import {Job, JobRecords, MAX_REPLICAS as REPLICA_LIMIT, Replica} from "./libraries/JobRecords.sol";
import {Payout} from "./libraries/Payout.sol";
import {QuoteRules} from "./libraries/QuoteRules.sol";
import {Seeds} from "./libraries/Seeds.sol";
import {Settlements} from "./libraries/Settlements.sol";
import {Slashing, Verdicts} from "./libraries/Verdicts.sol";
import {WireHash} from "./libraries/WireHash.sol";

/// @dev Reenters nowhere: signatures are checked by static calls before anything is written, and the vault, called
/// last, moves nothing while it calls a token. Time: a deadline's own second still belongs to it.
contract Jobs is IJobs, EIP712 {
    using JobRecords for Job;
    using JobChecks for Job;
    using JobChecks for Replica;

    uint256 public constant MAX_REPLICAS = REPLICA_LIMIT;
    /// @dev Two 12-second blocks and a missed one: a replica that watches can always reach the chain inside a window.
    uint256 public constant MIN_WINDOW = 30;
    uint256 public constant MAX_WINDOW = 1 days;
    uint256 public constant DISPUTE_DEADLINE = JobChecks.DISPUTE_DEADLINE;
    uint256 public constant MAX_CHALLENGER_SHARE_BPS = 3000;
    uint256 public constant DRAW_FEE_BPS = QuoteRules.DRAW_FEE_BPS;
    uint256 public constant DEMAND_FEE_TOKENS = Payout.DEMAND_FEE_TOKENS;
    uint8 private constant FINISH_STOP = 1;
    uint8 private constant FINISH_LENGTH = 2;

    address public immutable vault;
    address public immutable stakeToken;
    address public immutable registry;
    address public immutable arbiter;
    uint64 public immutable disputeWindow;
    uint64 public immutable demandWindow;
    uint128 public immutable demandFee;
    uint16 public immutable challengerShareBps;

    mapping(address client => uint256) public clientNonce;
    mapping(bytes32 quoteDigest => mapping(address client => bool)) public quoteUsed;
    mapping(bytes32 jobId => Job) private _jobs;

    /// @param arbiter_ may be 0: then no bond can be frozen, and none slashed but by a demand that is not answered
    constructor(
        address vault_,
        address registry_,
        address arbiter_,
        uint64 disputeWindow_,
        uint16 challengerShareBps_,
        uint64 demandWindow_,
        uint128 demandFee_
    ) EIP712("Assay Jobs", "1") {
        // INVARIANT: a provider's exit never outruns a dispute, not even one about an output published on demand
        uint256 unbonding = IVault(vault_).unbondingWindow();
        uint256 minimum = 2 * MAX_WINDOW + 2 * uint256(disputeWindow_) + demandWindow_ + DISPUTE_DEADLINE;
        if (unbonding < minimum) revert UnbondingTooShort(unbonding, minimum);
        // INVARIANT: challenging pays, and challenging oneself does not
        if (challengerShareBps_ == 0 || challengerShareBps_ > MAX_CHALLENGER_SHARE_BPS) {
            revert ShareOutOfRange(challengerShareBps_, 1, MAX_CHALLENGER_SHARE_BPS);
        }
        _checkWindow(demandWindow_);
        // INVARIANT: demanding has a price, which the provider that answers gets
        if (demandFee_ == 0) revert NoDemandFee();
        vault = vault_;
        stakeToken = IVault(vault_).stakeToken();
        registry = registry_;
        arbiter = arbiter_;
        disputeWindow = disputeWindow_;
        challengerShareBps = challengerShareBps_;
        demandWindow = demandWindow_;
        demandFee = demandFee_;
    }

    modifier onlyArbiter() {
        // INVARIANT: only the arbiter touches a bond before its window is over
        if (msg.sender != arbiter) revert NotArbiter(msg.sender);
        _;
    }

    // ------------------------------------------------------------------------------------------------- client

    function post(JobParams calldata params) external returns (bytes32 jobId) {
        uint256 count = QuoteRules.checkQuorum(params);
        _checkWindow(params.commitWindow);
        _checkWindow(params.revealWindow);
        QuoteRules.checkRequest(params.request);
        if (params.mode == Mode.OPTIMISTIC) Verdicts.checkJudged(params.request, registry, arbiter);
        if (params.inlineInput.length != 0) QuoteRules.checkInline(params.request, params.inlineInput);
        bytes32 requestHash = WireHash.request(params.request);
        (uint256 escrow, bytes32[] memory digests) = _checkQuotes(params, requestHash);
        // INVARIANT: a client never pays more than it said
        if (escrow > params.maxEscrow) revert EscrowAboveCap(escrow, params.maxEscrow);

        jobId = jobIdOf(msg.sender, clientNonce[msg.sender]++);
        Job storage record = _jobs[jobId];
        _writeJob(record, params, requestHash, count);
        if (params.draw != 0) Draws.open(record, jobId, params.quotes[0].quote, registry);
        for (uint256 i; i < digests.length; ++i) {
            _writeReplica(record.replicas[i], digests[i], params.quotes[i].quote);
        }

        emit JobPosted(jobId, msg.sender, params.request.modelId, record.toView(escrow));
        for (uint256 i; i < digests.length; ++i) {
            Quote calldata quote = params.quotes[i].quote;
            emit ReplicaAssigned(jobId, quote.provider, digests[i], quote);
        }
        if (params.inlineInput.length != 0) emit RequestPublished(jobId, params.request, params.inlineInput);

        IVault(vault).fund(stakeToken, msg.sender, escrow, params.permit);
    }

    function cancel(bytes32 jobId) external {
        Settlements.cancel(_job(jobId), jobId, vault, stakeToken);
    }

    // ----------------------------------------------------------------------------------------------- replicas

    function commit(bytes32 jobId, bytes32 commitment) external {
        Job storage record = _job(jobId);
        record.need(jobId, JobState.OPEN);
        JobChecks.notAfter(jobId, record.commitDeadline);
        Replica storage replica = record.replicas[record.indexOf(jobId, msg.sender)];
        // INVARIANT: one commitment per replica, and it never changes
        if (replica.state != ReplicaState.ASSIGNED) {
            revert WrongReplicaState(jobId, msg.sender, replica.state, ReplicaState.ASSIGNED);
        }
        if (commitment == 0) revert EmptyCommitment(jobId);
        // INVARIANT: nobody commits to an answer before its seed is known, or after it could change
        if (record.isSeeded) Seeds.fix(record, jobId);

        (replica.state, replica.bondState, replica.digest) = (ReplicaState.COMMITTED, BondState.LOCKED, commitment);
        bool last = ++record.committed == record.replicaCount;
        emit Committed(jobId, msg.sender, commitment);
        if (last) _startReveal(jobId, record, block.timestamp + record.revealWindow);

        // INVARIANT: no commitment without its bond
        IVault(vault).bond(msg.sender, replica.terms.bond);
    }

    function reveal(bytes32 jobId, Output calldata output, bytes32 salt) external {
        Job storage record = _job(jobId);
        _needRevealing(jobId, record);
        uint256 index = record.indexOf(jobId, msg.sender);
        Replica storage replica = record.replicas[index];
        // INVARIANT: a commitment is opened once
        if (replica.state != ReplicaState.COMMITTED) {
            revert WrongReplicaState(jobId, msg.sender, replica.state, ReplicaState.COMMITTED);
        }
        bytes32 outputHash = WireHash.output(output);
        bytes32 opened = hashCommitment(jobId, msg.sender, outputHash, salt);
        // INVARIANT: what is revealed is what was committed, by the same replica to the same job
        if (opened != replica.digest) revert BadReveal(jobId, msg.sender, replica.digest, opened);
        _checkOutput(jobId, output, record.maxOutputTokens);
        bool late = block.timestamp > record.revealEnd();
        if (late) _checkLate(jobId, record, outputHash);

        if (record.state == JobState.OPEN) _startReveal(jobId, record, record.revealEnd());
        replica.state = late ? ReplicaState.LATE : ReplicaState.REVEALED;
        (replica.finish, replica.outputTokens, replica.digest) = (output.finish, output.outputTokens, outputHash);
        if (record.mode == Mode.OPTIMISTIC) record.revealedAt = uint40(block.timestamp);
        emit Revealed(jobId, msg.sender, outputHash, output, late);
        if (!late) _count(jobId, record, index, outputHash);
    }

    function publishOutput(bytes32 jobId, bytes calldata ids) external {
        uint256 fee = Demands.publish(_job(jobId), jobId, ids, demandFee);
        if (fee != 0) IVault(vault).pay(stakeToken, msg.sender, fee);
    }

    // ------------------------------------------------------------------------------------------------- anyone

    function draw(bytes32 jobId) external {
        Draws.draw(_job(jobId), jobId, registry, stakeToken);
    }

    function fixSeed(bytes32 jobId) external {
        Seeds.fix(_job(jobId), jobId);
    }

    function settle(bytes32 jobId) external {
        Settlements.settle(_job(jobId), jobId, vault, stakeToken, disputeWindow);
    }

    function releaseBond(bytes32 jobId, address provider) external {
        Settlements.release(_job(jobId), jobId, provider, vault, stakeToken, disputeWindow);
    }

    function demandReveal(bytes32 jobId, address provider, bytes calldata permit) external {
        uint256 total = Demands.open(_job(jobId), jobId, provider, disputeWindow, demandWindow, demandFee);
        IVault(vault).fund(stakeToken, msg.sender, total, permit);
    }

    function slashWithheld(bytes32 jobId, address provider) external {
        Job storage record = _job(jobId);
        (uint256 index, address demander) = Demands.withheld(record, jobId, provider, disputeWindow + DISPUTE_DEADLINE);
        _slash(jobId, record, index, demander, demander);
    }

    // ------------------------------------------------------------------------------------------------ arbiter

    /// @inheritdoc ISubject
    function freeze(bytes32 jobId, address provider, bytes calldata evidence)
        external
        onlyArbiter
        returns (Frozen memory)
    {
        return Verdicts.freeze(_job(jobId), jobId, provider, evidence, disputeWindow);
    }

    /// @inheritdoc ISubject
    function resolve(bytes32 jobId, address provider, bool guilty, address requester, address prover)
        external
        onlyArbiter
    {
        Job storage record = _job(jobId);
        uint256 index = record.indexOf(jobId, provider);
        Replica storage replica = record.replicas[index];
        // INVARIANT: a dispute is decided once, and in time
        replica.needBond(jobId, BondState.DISPUTED);
        JobChecks.notAfter(jobId, record.disputeEnd(replica, disputeWindow) + DISPUTE_DEADLINE);

        if (guilty) return _slash(jobId, record, index, requester, prover);
        replica.bondState = BondState.LOCKED;
        emit BondUnfrozen(jobId, provider);
    }

    /// @inheritdoc ISubject
    function contradicts(bytes32 jobId, address provider, bytes calldata evidence) external view returns (bool) {
        return Verdicts.contradicts(_job(jobId), jobId, provider, evidence, _domainSeparatorV4());
    }

    // -------------------------------------------------------------------------------------------------- views

    function job(bytes32 jobId) external view returns (JobView memory) {
        Job storage record = _job(jobId);
        return record.toView(Payout.escrow(record.load(), record.inputTokens, record.maxOutputTokens));
    }

    function replicas(bytes32 jobId) external view returns (ReplicaView[] memory list) {
        Job storage record = _job(jobId);
        list = new ReplicaView[](record.replicaCount);
        for (uint256 i; i < list.length; ++i) {
            Replica memory replica = record.replicas[i];
            uint256 paid = Payout.payment(
                replica, record.state, record.agreedOutput(), record.inputTokens, record.maxOutputTokens
            );
            list[i] = JobRecords.viewOf(replica, paid, record.demanders[i]);
        }
    }

    function seedOf(bytes32 jobId) external view returns (bytes32 seed, uint256 seedBlock, bool isFixed) {
        return Seeds.seedOf(_job(jobId), jobId);
    }

    function demandCostOf(bytes32 jobId, address provider) external view returns (uint256 fee, uint256 price) {
        return Demands.cost(_job(jobId), jobId, provider, demandFee);
    }

    function jobIdOf(address client, uint256 nonce) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), client, nonce));
    }

    function hashRequest(Request calldata request) external pure returns (bytes32) {
        return WireHash.request(request);
    }

    function hashOutput(Output calldata output) external pure returns (bytes32) {
        return WireHash.output(output);
    }

    function hashQuote(Quote calldata quote) external view returns (bytes32) {
        return _hashTypedDataV4(WireHash.quote(quote));
    }

    function hashCommitment(bytes32 jobId, address provider, bytes32 outputHash, bytes32 salt)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            WireHash.commitment(Commitment({jobId: jobId, provider: provider, outputHash: outputHash, salt: salt}))
        );
    }

    // ------------------------------------------------------------------------------------------- rules of post

    function _checkWindow(uint256 window) private pure {
        // INVARIANT: no window is too short to be met or so long that it outlasts unbonding
        if (window < MIN_WINDOW || window > MAX_WINDOW) revert WindowOutOfRange(window, MIN_WINDOW, MAX_WINDOW);
    }

    function _checkQuotes(JobParams calldata params, bytes32 requestHash)
        private
        view
        returns (uint256 escrow, bytes32[] memory digests)
    {
        if (params.draw == 0) digests = new bytes32[](params.quotes.length);
        for (uint256 i; i < params.quotes.length; ++i) {
            SignedQuote calldata signed = params.quotes[i];
            uint256 price = QuoteRules.check(
                signed.quote, params.request, params.mode, requestHash, stakeToken, challengerShareBps
            );
            if (params.draw != 0) {
                QuoteRules.checkDrawn(signed, price);
                return (price * params.draw, digests);
            }
            escrow += price;
            QuoteRules.checkDistinct(params.quotes, i);
            digests[i] = _checkSignature(signed);
        }
    }

    function _checkSignature(SignedQuote calldata signed) private view returns (bytes32 digest) {
        address provider = signed.quote.provider;
        digest = _hashTypedDataV4(WireHash.quote(signed.quote));
        // INVARIANT: a quote is accepted once per client
        if (quoteUsed[digest][msg.sender]) revert QuoteUsed(provider, digest);
        // INVARIANT: nobody is bound by terms it did not sign
        if (!SignatureChecker.isValidSignatureNowCalldata(provider, digest, signed.signature)) {
            revert BadSignature(provider);
        }
    }

    function _writeJob(Job storage record, JobParams calldata params, bytes32 requestHash, uint256 count) private {
        record.client = msg.sender;
        record.state = JobState.OPEN;
        record.mode = params.mode;
        record.quorum = params.quorum;
        record.replicaCount = uint8(count);
        record.commitDeadline = uint40(block.timestamp + params.commitWindow);
        record.commitWindow = uint24(params.commitWindow);
        record.revealWindow = uint24(params.revealWindow);
        record.inputTokens = params.request.inputTokens;
        record.maxOutputTokens = params.request.maxOutputTokens;
        record.inlineInput = params.inlineInput.length != 0;
        if (params.request.sampler == QuoteRules.SEEDED_BY_CHAIN) {
            (record.isSeeded, record.drawing.drawBlock) = (true, uint40(block.number));
        }
        record.modelId = params.request.modelId;
        record.requestHash = requestHash;
    }

    function _writeReplica(Replica storage replica, bytes32 digest, Quote calldata quote) private {
        quoteUsed[digest][msg.sender] = true;
        replica.provider = quote.provider;
        replica.state = ReplicaState.ASSIGNED;
        replica.terms = JobRecords.termsOf(quote);
    }

    // ----------------------------------------------------------------------------------------- rules of reveal

    /// @dev Passes in REVEALING, and in OPEN once the commit window is over with a quorum of commitments.
    function _needRevealing(bytes32 jobId, Job storage record) private view {
        if (record.state == JobState.REVEALING) return;
        // INVARIANT: nobody opens its answer to a job that too few took
        bool enough = record.state == JobState.OPEN && record.committed >= record.quorum;
        if (!enough) revert WrongState(jobId, record.state, JobState.REVEALING);
        // INVARIANT: nothing is revealed while somebody may still commit
        JobChecks.past(jobId, record.commitDeadline);
    }

    function _checkOutput(bytes32 jobId, Output calldata output, uint256 maxOutputTokens) private pure {
        uint256 count = output.outputTokens;
        // INVARIANT: errors, empty, cancelled, overlong and truncated outputs are never paid
        bool holds = output.finish == FINISH_LENGTH
            ? count == maxOutputTokens
            : output.finish == FINISH_STOP && count != 0 && count <= maxOutputTokens;
        if (!holds) revert BadOutput(jobId, count, output.finish);
    }

    function _checkLate(bytes32 jobId, Job storage record, bytes32 outputHash) private view {
        // INVARIANT: agreement is fixed by reveals in time; a late one can only join it
        if (record.agreedBy == 0) revert TooLate(jobId, block.timestamp, record.revealEnd());
        if (record.agreedOutput() != outputHash) revert LateAndNotAgreed(jobId, msg.sender);
    }

    function _startReveal(bytes32 jobId, Job storage record, uint256 revealDeadline) private {
        record.state = JobState.REVEALING;
        record.revealDeadline = uint40(revealDeadline);
        emit RevealStarted(jobId, uint64(revealDeadline));
    }

    function _count(bytes32 jobId, Job storage record, uint256 index, bytes32 outputHash) private {
        ++record.revealed;
        if (record.agreedBy != 0) return;
        uint256 equal;
        for (uint256 i; i < record.replicaCount; ++i) {
            Replica storage other = record.replicas[i];
            if (other.state == ReplicaState.REVEALED && other.digest == outputHash) ++equal;
        }
        if (equal < record.quorum) return;
        record.agreedBy = uint8(index + 1);
        emit Agreed(jobId, outputHash);
    }

    function _slash(bytes32 jobId, Job storage record, uint256 index, address requester, address prover) private {
        Slashing memory rules = Slashing(vault, stakeToken, challengerShareBps, demandFee);
        Verdicts.slash(record, jobId, index, requester, prover, rules);
    }

    // ------------------------------------------------------------------------------------------------ helpers

    function _job(bytes32 jobId) private view returns (Job storage record) {
        record = _jobs[jobId];
        // INVARIANT: nothing moves for a job that nobody posted
        if (record.state == JobState.NONE) revert UnknownJob(jobId);
    }
}
