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
import {ISubject} from "./interfaces/ISubject.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Commitment, Output, Quote, Request} from "./interfaces/Wire.sol";
import {Job, JobRecords, MAX_REPLICAS as REPLICA_LIMIT, Replica} from "./libraries/JobRecords.sol";
import {Payout, Split} from "./libraries/Payout.sol";
import {QuoteRules} from "./libraries/QuoteRules.sol";
import {WireHash} from "./libraries/WireHash.sol";

/// @dev Reenters nowhere: signatures are checked by static calls before anything is written, and the vault, called
/// last, moves nothing while it calls a token. Time: a deadline's own second still belongs to it.
contract Jobs is IJobs, EIP712 {
    using JobRecords for Job;

    uint256 public constant MAX_REPLICAS = REPLICA_LIMIT;
    /// @dev Two 12-second blocks and a missed one: a replica that watches can always reach the chain inside a window.
    uint256 public constant MIN_WINDOW = 30;
    uint256 public constant MAX_WINDOW = 1 days;
    uint256 public constant DISPUTE_DEADLINE = 7 days;
    uint256 public constant MAX_CHALLENGER_SHARE_BPS = 3000;
    address private constant BURNT = address(0xdead);
    uint8 private constant FINISH_STOP = 1;
    uint8 private constant FINISH_LENGTH = 2;

    address public immutable vault;
    address public immutable stakeToken;
    address public immutable arbiter;
    uint64 public immutable disputeWindow;
    uint16 public immutable challengerShareBps;

    mapping(address client => uint256) public clientNonce;
    mapping(bytes32 quoteDigest => mapping(address client => bool)) public quoteUsed;
    mapping(bytes32 jobId => Job) private _jobs;

    /// @param arbiter_ may be 0: then no bond can be frozen or slashed
    constructor(address vault_, address arbiter_, uint64 disputeWindow_, uint16 challengerShareBps_)
        EIP712("Assay Jobs", "1")
    {
        // INVARIANT: a provider's exit never outruns a dispute
        uint256 unbonding = IVault(vault_).unbondingWindow();
        uint256 minimum = 2 * MAX_WINDOW + disputeWindow_ + DISPUTE_DEADLINE;
        if (unbonding < minimum) revert UnbondingTooShort(unbonding, minimum);
        // INVARIANT: challenging pays, and challenging oneself does not
        if (challengerShareBps_ == 0 || challengerShareBps_ > MAX_CHALLENGER_SHARE_BPS) {
            revert ShareOutOfRange(challengerShareBps_, 1, MAX_CHALLENGER_SHARE_BPS);
        }
        vault = vault_;
        stakeToken = IVault(vault_).stakeToken();
        arbiter = arbiter_;
        disputeWindow = disputeWindow_;
        challengerShareBps = challengerShareBps_;
    }

    modifier onlyArbiter() {
        // INVARIANT: only the arbiter touches a bond before its window is over
        if (msg.sender != arbiter) revert NotArbiter(msg.sender);
        _;
    }

    // ------------------------------------------------------------------------------------------------- client

    function post(JobParams calldata params) external returns (bytes32 jobId) {
        QuoteRules.checkQuorum(params);
        _checkWindow(params.commitWindow);
        _checkWindow(params.revealWindow);
        QuoteRules.checkRequest(params.request);
        if (params.inlineInput.length != 0) QuoteRules.checkInline(params.request, params.inlineInput);
        bytes32 requestHash = WireHash.request(params.request);
        (uint256 escrow, bytes32[] memory digests) = _checkQuotes(params, requestHash);
        // INVARIANT: a client never pays more than it said
        if (escrow > params.maxEscrow) revert EscrowAboveCap(escrow, params.maxEscrow);

        jobId = jobIdOf(msg.sender, clientNonce[msg.sender]++);
        Job storage record = _jobs[jobId];
        _writeJob(record, params, requestHash);
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
        Job storage record = _job(jobId);
        // INVARIANT: only the client takes its job back, and only while nobody has committed to it
        if (msg.sender != record.client) revert NotClient(jobId, msg.sender);
        _need(jobId, record, JobState.OPEN);
        if (record.committed != 0) revert AlreadyCommitted(jobId, record.committed);
        _notAfter(jobId, record.commitDeadline);

        (Replica[] memory list, Split memory split) = _close(jobId, record, JobState.CANCELLED, false);
        emit Cancelled(jobId, split.totalPaid, split.refunded);
        _transfer(record.client, list, split);
    }

    // ----------------------------------------------------------------------------------------------- replicas

    function commit(bytes32 jobId, bytes32 commitment) external {
        Job storage record = _job(jobId);
        _need(jobId, record, JobState.OPEN);
        _notAfter(jobId, record.commitDeadline);
        Replica storage replica = record.replicas[record.indexOf(jobId, msg.sender)];
        // INVARIANT: one commitment per replica, and it never changes
        if (replica.state != ReplicaState.ASSIGNED) {
            revert WrongReplicaState(jobId, msg.sender, replica.state, ReplicaState.ASSIGNED);
        }
        if (commitment == 0) revert EmptyCommitment(jobId);

        (replica.state, replica.bondState, replica.digest) = (ReplicaState.COMMITTED, BondState.LOCKED, commitment);
        bool last = ++record.committed == record.replicaCount;
        emit Committed(jobId, msg.sender, commitment);
        if (last) _startReveal(jobId, record, uint64(block.timestamp) + record.revealWindow);

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

        if (record.state == JobState.OPEN) _startReveal(jobId, record, uint64(record.revealEnd()));
        replica.state = late ? ReplicaState.LATE : ReplicaState.REVEALED;
        (replica.finish, replica.outputTokens, replica.digest) = (output.finish, output.outputTokens, outputHash);
        emit Revealed(jobId, msg.sender, outputHash, output, late);
        if (!late) _count(jobId, record, index, outputHash);
    }

    // ------------------------------------------------------------------------------------------------- anyone

    function settle(bytes32 jobId) external {
        Job storage record = _job(jobId);
        bool lapsed = _needSettleable(jobId, record);
        bool agreed = record.agreedBy != 0;

        (Replica[] memory list, Split memory split) =
            _close(jobId, record, agreed ? JobState.SETTLED : JobState.EXPIRED, !lapsed);
        if (agreed) emit Settled(jobId, record.agreedOutput(), split.totalPaid, split.refunded, split.missFees);
        else emit Expired(jobId, split.totalPaid, split.refunded, split.missFees);
        _transfer(record.client, list, split);
    }

    function releaseBond(bytes32 jobId, address provider) external {
        Job storage record = _job(jobId);
        Replica storage replica = record.replicas[record.indexOf(jobId, provider)];
        BondState has = replica.bondState;
        // INVARIANT: a bond leaves once, and only from a final job
        if (has != BondState.LOCKED && has != BondState.DISPUTED) {
            revert WrongBondState(jobId, provider, has, BondState.LOCKED);
        }
        if (record.finalAt == 0) revert WrongState(jobId, record.state, JobState.SETTLED);
        // INVARIANT: every revealed bond stays locked through the dispute window, the majority's too; a disputed one
        // until the arbiter's deadline, so that a silent arbiter keeps no money
        _after(jobId, has == BondState.LOCKED ? _windowEnd(record) : _windowEnd(record) + DISPUTE_DEADLINE);

        replica.bondState = BondState.RELEASED;
        uint256 amount = replica.terms.bond;
        emit BondReleased(jobId, provider, amount);
        IVault(vault).unbond(provider, amount);
    }

    // ------------------------------------------------------------------------------------------------ arbiter

    /// @inheritdoc ISubject
    function freeze(bytes32 jobId, address provider, bytes calldata evidence)
        external
        onlyArbiter
        returns (bytes32 modelId, bytes32 requestHash, bytes32 outputHash, uint256 bond)
    {
        Job storage record = _job(jobId);
        // INVARIANT: money that is still being divided is not disputed
        if (record.finalAt == 0) revert WrongState(jobId, record.state, JobState.SETTLED);
        Replica storage replica = record.replicas[record.indexOf(jobId, provider)];
        // INVARIANT: only an output that was revealed can be disputed, once at a time, inside the window
        if (replica.state != ReplicaState.REVEALED && replica.state != ReplicaState.LATE) {
            revert WrongReplicaState(jobId, provider, replica.state, ReplicaState.REVEALED);
        }
        _needBond(jobId, replica, BondState.LOCKED);
        _notAfter(jobId, _windowEnd(record));
        bytes32 got = WireHash.encodedRequest(evidence);
        // INVARIANT: what is judged is the request that was paid for
        if (got != record.requestHash) revert EvidenceMismatch(record.requestHash, got);

        replica.bondState = BondState.DISPUTED;
        emit BondFrozen(jobId, provider);
        return (record.modelId, record.requestHash, replica.digest, replica.terms.bond);
    }

    /// @inheritdoc ISubject
    function resolve(bytes32 jobId, address provider, bool guilty, address challenger) external onlyArbiter {
        Job storage record = _job(jobId);
        Replica storage replica = record.replicas[record.indexOf(jobId, provider)];
        // INVARIANT: a dispute is decided once, and in time
        _needBond(jobId, replica, BondState.DISPUTED);
        _notAfter(jobId, _windowEnd(record) + DISPUTE_DEADLINE);

        if (!guilty) {
            replica.bondState = BondState.LOCKED;
            emit BondUnfrozen(jobId, provider);
            return;
        }
        uint256 bond = replica.terms.bond;
        uint256 refund = _payment(record, replica);
        (uint256 reward, uint256 burnt) = Payout.slash(bond, refund, challengerShareBps);
        replica.bondState = BondState.SLASHED;
        emit BondSlashed(jobId, provider, challenger, refund, reward, burnt);
        _pay(record.client, refund);
        _pay(challenger, reward);
        _pay(BURNT, burnt);
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
            list[i] = JobRecords.viewOf(replica, _payment(record, replica));
        }
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
        digests = new bytes32[](params.quotes.length);
        for (uint256 i; i < digests.length; ++i) {
            SignedQuote calldata signed = params.quotes[i];
            escrow += QuoteRules.check(
                signed.quote, params.request, params.mode, requestHash, stakeToken, challengerShareBps
            );
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

    function _writeJob(Job storage record, JobParams calldata params, bytes32 requestHash) private {
        record.client = msg.sender;
        record.state = JobState.OPEN;
        record.mode = params.mode;
        record.quorum = params.quorum;
        record.replicaCount = uint8(params.quotes.length);
        record.commitDeadline = uint64(block.timestamp) + params.commitWindow;
        record.revealWindow = params.revealWindow;
        record.inputTokens = params.request.inputTokens;
        record.maxOutputTokens = params.request.maxOutputTokens;
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
        _after(jobId, record.commitDeadline);
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

    function _startReveal(bytes32 jobId, Job storage record, uint64 revealDeadline) private {
        record.state = JobState.REVEALING;
        record.revealDeadline = revealDeadline;
        emit RevealStarted(jobId, revealDeadline);
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

    // ------------------------------------------------------------------------------------- closing a job

    /// @return lapsed whether the commit window ended short of a quorum
    function _needSettleable(bytes32 jobId, Job storage record) private view returns (bool lapsed) {
        if (record.state == JobState.OPEN) {
            _after(jobId, record.commitDeadline);
            if (record.committed < record.quorum) return true;
        } else {
            // INVARIANT: no job settles twice
            _need(jobId, record, JobState.REVEALING);
            if (record.revealed == record.committed) return false;
        }
        // INVARIANT: nobody is counted as silent before its deadline
        _after(jobId, record.revealEnd());
    }

    /// @dev Makes the job final: decides the division, writes and emits it. The caller emits the summary and then
    /// lets `_transfer` move the money.
    /// @param missing whether those who committed and did not reveal were silent
    function _close(bytes32 jobId, Job storage record, JobState state, bool missing)
        private
        returns (Replica[] memory list, Split memory split)
    {
        list = record.load();
        for (uint256 i; missing && i < list.length; ++i) {
            if (list[i].state == ReplicaState.COMMITTED) list[i].state = ReplicaState.MISSED;
        }
        split = Payout.split(list, state, record.agreedOutput(), record.inputTokens, record.maxOutputTokens);

        // INVARIANT: a final job never changes
        record.state = state;
        record.finalAt = uint40(block.timestamp);
        for (uint256 i; i < list.length; ++i) {
            _recordReplica(jobId, record.replicas[i], list[i], split, i);
        }
        if (split.missFees != 0) emit MissFeesShared(jobId, split.missShare, split.burnt);
    }

    function _recordReplica(
        bytes32 jobId,
        Replica storage stored,
        Replica memory replica,
        Split memory split,
        uint256 index
    ) private {
        if (replica.state == ReplicaState.MISSED || replica.state == ReplicaState.COMMITTED) {
            (stored.state, stored.bondState) = (replica.state, BondState.RELEASED);
            if (replica.state == ReplicaState.MISSED) {
                emit ReplicaMissed(jobId, replica.provider, split.missFee[index]);
            }
            emit BondReleased(jobId, replica.provider, split.returned[index]);
        }
        if (split.paid[index] != 0) emit ReplicaPaid(jobId, replica.provider, split.paid[index]);
    }

    function _transfer(address client, Replica[] memory list, Split memory split) private {
        for (uint256 i; i < list.length; ++i) {
            bool shares = list[i].state == ReplicaState.REVEALED;
            _pay(list[i].provider, split.paid[i] + (shares ? split.missShare : 0));
            if (split.returned[i] != 0) IVault(vault).unbond(list[i].provider, split.returned[i]);
        }
        _pay(client, split.refunded);
        _pay(BURNT, split.burnt);
    }

    function _pay(address to, uint256 amount) private {
        if (amount != 0) IVault(vault).pay(stakeToken, to, amount);
    }

    // ------------------------------------------------------------------------------------------------ helpers

    function _job(bytes32 jobId) private view returns (Job storage record) {
        record = _jobs[jobId];
        // INVARIANT: nothing moves for a job that nobody posted
        if (record.state == JobState.NONE) revert UnknownJob(jobId);
    }

    function _need(bytes32 jobId, Job storage record, JobState needs) private view {
        // INVARIANT: a job moves along its states and never back
        if (record.state != needs) revert WrongState(jobId, record.state, needs);
    }

    function _needBond(bytes32 jobId, Replica storage replica, BondState needs) private view {
        // INVARIANT: a bond moves along its states and never back
        if (replica.bondState != needs) revert WrongBondState(jobId, replica.provider, replica.bondState, needs);
    }

    function _notAfter(bytes32 jobId, uint256 deadline) private view {
        // INVARIANT: what was due by a deadline is not done after it
        if (block.timestamp > deadline) revert TooLate(jobId, block.timestamp, deadline);
    }

    function _after(bytes32 jobId, uint256 deadline) private view {
        // INVARIANT: a deadline's whole last second belongs to those it was given to
        if (block.timestamp <= deadline) revert TooEarly(jobId, block.timestamp, deadline + 1);
    }

    /// @return last second in which a revealed bond can be disputed
    function _windowEnd(Job storage record) private view returns (uint256) {
        return uint256(record.finalAt) + disputeWindow;
    }

    function _payment(Job storage record, Replica memory replica) private view returns (uint256) {
        return Payout.payment(replica, record.state, record.agreedOutput(), record.inputTokens, record.maxOutputTokens);
    }
}
