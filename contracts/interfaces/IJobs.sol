// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Mode, Output, Quote, Request} from "./Wire.sol";
import {ISubject} from "./ISubject.sol";

/// @dev OPEN → REVEALING → SETTLED | EXPIRED, OPEN → CANCELLED | EXPIRED. No way back.
enum JobState {
    NONE,
    OPEN, // replicas may commit
    REVEALING, // replicas may reveal
    SETTLED, // an output was agreed and paid
    CANCELLED, // the client took the job back before the first commit
    EXPIRED // no agreement; the escrow went back
}

/// @dev What one replica did. ASSIGNED → COMMITTED → REVEALED | LATE | MISSED.
enum ReplicaState {
    NONE,
    ASSIGNED,
    COMMITTED,
    REVEALED, // in time
    LATE, // after the reveal deadline, before settlement, equal to the agreed output
    MISSED // committed and silent: the miss fee is gone
}

/// @dev What became of one replica's bond. LOCKED → (DISPUTED) → RELEASED | SLASHED.
enum BondState {
    NONE,
    LOCKED,
    DISPUTED,
    RELEASED,
    SLASHED
}

struct SignedQuote {
    Quote quote;
    bytes signature; // 65 bytes r‖s‖v with low s, or whatever the provider's ERC-1271 contract accepts
}

/// @notice Everything `post` needs.
struct JobParams {
    Mode mode;
    uint8 quorum; // k equal outputs settle the job; n = quotes.length
    uint128 maxEscrow; // base units; the caller's own cap on the whole escrow
    uint32 commitWindow; // seconds
    uint32 revealWindow; // seconds
    Request request;
    SignedQuote[] quotes;
    bytes permit; // empty, or an ERC-2612 permit for the vault (IVault.fund)
    bytes inlineInput; // empty (delivered directly), or the ids: uint32 big-endian, last word padded with 0xff…
}

/// @notice A job as it stands. `state` is the stored one: past deadlines show only once somebody settles.
struct JobView {
    address client;
    JobState state;
    Mode mode;
    uint8 quorum;
    uint8 replicas;
    uint8 committed;
    uint8 revealed;
    uint32 inputTokens;
    uint32 maxOutputTokens;
    uint32 revealWindow;
    uint64 commitDeadline;
    uint64 revealDeadline; // 0 while it is not fixed
    uint64 finalAt; // when it was settled, cancelled or expired; 0 before
    uint128 escrow;
    bytes32 modelId;
    bytes32 requestHash;
    bytes32 outputHash; // the agreed output; 0 before agreement
}

struct ReplicaView {
    address provider;
    ReplicaState state;
    BondState bondState;
    uint8 finish;
    uint32 outputTokens;
    uint128 baseFee;
    uint128 pricePerMInput;
    uint128 pricePerMOutput;
    uint128 killFee;
    uint128 missFee;
    uint128 bond;
    uint128 paid; // escrow paid to this replica at settlement (price or kill fee)
    bytes32 digest; // the commitment while COMMITTED or MISSED, the output hash once REVEALED or LATE
}

/// @title Jobs: one request on chain, n replicas, one agreed answer
/// @notice Client posts with an escrow and n signed quotes; replicas commit (locking a bond), reveal, and anyone
/// settles. Funds leave every state by a published deadline through one transaction of anyone:
/// - OPEN, before the first commit: `cancel` by the client (kill fees are paid).
/// - OPEN, past the commit deadline with fewer than k commits: `settle` → EXPIRED (committers get the kill fee).
/// - OPEN, k or more commits but not all: whoever committed may reveal, which starts REVEALING. Nobody reveals: `settle`
///   once both windows are over → EXPIRED (the escrow goes back, each committer loses its miss fee).
/// - REVEALING: `settle` as soon as all who committed revealed, else past the reveal deadline.
/// - A bond of a replica that revealed: `releaseBond` by anyone, `disputeWindow` after settlement.
/// Nobody is slashed by vote: every bond of a replica that revealed, in the majority or not, stays locked through the
/// dispute window, and only the arbiter can slash it.
/// Jobs are priced, paid and bonded in the vault's stake token, so that a bond and a price can be compared.
interface IJobs is ISubject {
    event JobPosted(bytes32 indexed jobId, address indexed client, bytes32 indexed modelId, JobView job);
    /// @dev `terms` is the quote that was accepted for this replica.
    event ReplicaAssigned(bytes32 indexed jobId, address indexed provider, bytes32 quoteDigest, Quote terms);
    /// @dev Only for a job whose input was given inline.
    event RequestPublished(bytes32 indexed jobId, Request request, bytes ids);
    event Committed(bytes32 indexed jobId, address indexed provider, bytes32 commitment);
    /// @dev Emitted once: by the last commit, or by the first reveal after the commit deadline.
    event RevealStarted(bytes32 indexed jobId, uint64 revealDeadline);
    event Revealed(bytes32 indexed jobId, address indexed provider, bytes32 outputHash, Output output, bool late);
    event Agreed(bytes32 indexed jobId, bytes32 outputHash);
    /// @dev agreed output paid: `paid` to replicas, `refunded` to the client; missFees moved from bonds.
    event Settled(bytes32 indexed jobId, bytes32 outputHash, uint256 paid, uint256 refunded, uint256 missFees);
    event Cancelled(bytes32 indexed jobId, uint256 paid, uint256 refunded);
    event Expired(bytes32 indexed jobId, uint256 paid, uint256 refunded, uint256 missFees);
    /// @dev Escrow paid to a replica: its price, or its kill fee.
    event ReplicaPaid(bytes32 indexed jobId, address indexed provider, uint256 amount);
    /// @dev A silent replica's miss fee was taken from its bond; `share` of all of them went to each that revealed.
    event ReplicaMissed(bytes32 indexed jobId, address indexed provider, uint256 missFee);
    event MissFeesShared(bytes32 indexed jobId, uint256 share, uint256 burnt);
    event BondReleased(bytes32 indexed jobId, address indexed provider, uint256 amount);
    event BondFrozen(bytes32 indexed jobId, address indexed provider);
    /// @dev The dispute ended without fault; the bond is locked until its window is over.
    event BondUnfrozen(bytes32 indexed jobId, address indexed provider);
    event BondSlashed(
        bytes32 indexed jobId,
        address indexed provider,
        address indexed challenger,
        uint256 refunded,
        uint256 reward,
        uint256 burnt
    );

    // deployment
    error UnbondingTooShort(uint256 window, uint256 minimum);
    error ShareOutOfRange(uint256 shareBps, uint256 minimum, uint256 maximum);
    // post
    error ModeNotBuilt(Mode mode);
    error BadQuorum(uint256 quorum, uint256 replicas);
    error WindowOutOfRange(uint256 window, uint256 minimum, uint256 maximum);
    error EmptyInput();
    error NoOutputAsked();
    error BadSampler(uint8 sampler);
    error InputMismatch(bytes32 expected, bytes32 got);
    error InputLengthMismatch(uint256 expected, uint256 got);
    error InputFillerMismatch(uint256 inputTokens);
    error QuoteExpired(address provider, uint256 validUntil, uint256 timestamp);
    error QuoteMismatch(address provider, bytes32 field);
    error QuoteLimit(address provider, bytes32 field, uint256 has, uint256 needs);
    error QuoteUsed(address provider, bytes32 quoteDigest);
    error WrongToken(address token, address expected);
    error BadSignature(address provider);
    error DuplicateProvider(address provider);
    error BondTooSmall(address provider, uint256 bond, uint256 needs);
    error KillFeeTooLarge(address provider, uint256 killFee, uint256 price);
    error MissFeeOutOfRange(address provider, uint256 missFee, uint256 price, uint256 bond);
    error EscrowAboveCap(uint256 escrow, uint256 cap);
    // the rest
    error UnknownJob(bytes32 jobId);
    error WrongState(bytes32 jobId, JobState has, JobState needs);
    error NotClient(bytes32 jobId, address caller);
    error NotReplica(bytes32 jobId, address caller);
    error WrongReplicaState(bytes32 jobId, address provider, ReplicaState has, ReplicaState needs);
    error WrongBondState(bytes32 jobId, address provider, BondState has, BondState needs);
    error AlreadyCommitted(bytes32 jobId, uint256 committed);
    error EmptyCommitment(bytes32 jobId);
    error TooEarly(bytes32 jobId, uint256 timestamp, uint256 opensAt);
    error TooLate(bytes32 jobId, uint256 timestamp, uint256 deadline);
    error BadReveal(bytes32 jobId, address provider, bytes32 expected, bytes32 got);
    error BadOutput(bytes32 jobId, uint256 outputTokens, uint8 finish);
    error LateAndNotAgreed(bytes32 jobId, address provider);
    error EvidenceMismatch(bytes32 expected, bytes32 got);
    error NotArbiter(address caller);

    /// @notice Opens a job. jobId = keccak256(abi.encode(chainId, jobs, client, clientNonce[client])).
    /// Effect: Σ price(inputTokens, maxOutputTokens) of the quotes moves from the caller to this module as escrow.
    /// Requirements: mode NONE (k = n = 1) or QUORUM (2 ≤ k ≤ n ≤ MAX_REPLICAS, 2k > n); windows in range; greedy or
    /// seeded request; per quote: signed by its provider, unexpired, for this client, model, request, mode and token,
    /// inside its limits, used once per client, no provider twice, bond·(1 − challengerShare) ≥ price(maxInput,
    /// maxOutput), killFee ≤ price, price ≤ missFee ≤ bond; escrow ≤ maxEscrow.
    function post(JobParams calldata params) external returns (bytes32 jobId);
    /// @notice Publishes the caller's salted commitment and locks its bond. OPEN, until the commit deadline.
    function commit(bytes32 jobId, bytes32 commitment) external;
    /// @notice Opens the caller's commitment. finish must be 1 or 2, outputTokens in 1…maxOutputTokens, and exactly
    /// maxOutputTokens where finish is 2. After the reveal deadline, until somebody settles, only an output equal to
    /// the agreed one is taken, and earns the kill fee.
    function reveal(bytes32 jobId, Output calldata output, bytes32 salt) external;
    /// @notice Moves the money and makes the job final. Anyone.
    function settle(bytes32 jobId) external;
    /// @notice Takes the job back before the first commit; each assigned replica gets its kill fee. Only the client.
    function cancel(bytes32 jobId) external;
    /// @notice Returns the bond of a replica that revealed to its stake once the dispute window is over, or, where
    /// it is disputed and the arbiter let its deadline pass, once that is over. Anyone.
    function releaseBond(bytes32 jobId, address provider) external;

    function job(bytes32 jobId) external view returns (JobView memory);
    function replicas(bytes32 jobId) external view returns (ReplicaView[] memory);
    /// @notice Jobs posted by a client so far: the nonce of its next jobId.
    function clientNonce(address client) external view returns (uint256);
    function jobIdOf(address client, uint256 nonce) external view returns (bytes32);
    function quoteUsed(bytes32 quoteDigest, address client) external view returns (bool);
    function hashRequest(Request calldata request) external pure returns (bytes32);
    function hashOutput(Output calldata output) external pure returns (bytes32);
    function hashQuote(Quote calldata quote) external view returns (bytes32);
    function hashCommitment(bytes32 jobId, address provider, bytes32 outputHash, bytes32 salt)
        external
        view
        returns (bytes32);
    function vault() external view returns (address);
    function stakeToken() external view returns (address);
    function arbiter() external view returns (address);
    /// @return seconds a revealed bond stays locked after settlement
    function disputeWindow() external view returns (uint64);
    /// @return the challenger's share of a slashed bond, in basis points
    function challengerShareBps() external view returns (uint16);
    function MAX_REPLICAS() external view returns (uint256);
    function MIN_WINDOW() external view returns (uint256);
    function MAX_WINDOW() external view returns (uint256);
    /// @return seconds after the dispute window by which the arbiter must have resolved; later the bond is released
    function DISPUTE_DEADLINE() external view returns (uint256);
    function MAX_CHALLENGER_SHARE_BPS() external view returns (uint256);
}
