// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Mode, Output, Quote, Request} from "./Wire.sol";
import {ISubject} from "./ISubject.sol";

/// @dev (DRAWING →) OPEN → REVEALING → SETTLED | EXPIRED, OPEN → CANCELLED | EXPIRED, DRAWING → EXPIRED. No way back.
enum JobState {
    NONE,
    DRAWING, // its replicas are still to be drawn
    OPEN, // replicas may commit
    REVEALING, // replicas may reveal
    SETTLED, // an output was agreed and paid
    CANCELLED, // the client took the job back before the first commit
    EXPIRED // no agreement, or nobody was drawn; the escrow went back
}

/// @dev What one replica did. (UNDRAWN →) ASSIGNED → COMMITTED → REVEALED | LATE | MISSED.
enum ReplicaState {
    NONE,
    UNDRAWN, // nobody yet: the terms stand, the provider is 0
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
    uint8 quorum; // k equal outputs settle the job; n = quotes.length, or `draw`
    uint128 maxEscrow; // base units; the caller's own cap on the whole escrow
    uint32 commitWindow; // seconds
    uint32 revealWindow; // seconds
    Request request;
    SignedQuote[] quotes;
    bytes permit; // empty, or an ERC-2612 permit for the vault (IVault.fund)
    bytes inlineInput; // empty (delivered directly), or the ids: uint32 big-endian, last word padded with 0xff…
    uint8 draw; // 0: the replicas are those who signed the quotes; n: draw n that take the one unsigned quote given
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
    uint64 commitDeadline; // while DRAWING: until when the replicas must be drawn
    uint64 revealDeadline; // 0 while it is not fixed
    uint64 finalAt; // when it was settled, cancelled or expired; 0 before
    uint128 escrow;
    bytes32 modelId;
    bytes32 requestHash;
    bytes32 outputHash; // the agreed output; 0 before agreement
    uint64 drawBlock; // the block whose hash draws the replicas; 0 where they were chosen by the client
    bool drawFailed; // a draw found too few that take the terms
    bool inlineInput; // the request is public, and so anyone may demand the output
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
    uint64 demandDeadline; // until when the output that was demanded must be published; 0 = none was
    address demander; // who demanded it and waits; 0 once that is over
}

/// @title Jobs: one request on chain, n replicas, one agreed answer
/// @notice Client posts with an escrow and n signed quotes; replicas commit (locking a bond), reveal, and anyone
/// settles. Funds leave every state by a published deadline through one transaction of anyone:
/// - DRAWING: `draw` by anyone once the posting block is over; past its deadline `settle` → EXPIRED (the draw fees are
///   burnt, unless a draw found too few providers). No `cancel`.
/// - OPEN, before the first commit: `cancel` by the client (kill fees are paid).
/// - OPEN, past the commit deadline with fewer than k commits: `settle` → EXPIRED (committers get the kill fee).
/// - OPEN, k or more commits but not all: whoever committed may reveal, which starts REVEALING. Nobody reveals: `settle`
///   once both windows are over → EXPIRED (the escrow goes back, each committer loses its miss fee).
/// - REVEALING: `settle` as soon as all who committed revealed, else past the reveal deadline.
/// - REVEALING, OPTIMISTIC and revealed: `settle` once the answer cannot be disputed any more; found guilty or withheld
///   before → EXPIRED, the escrow goes back.
/// - A bond of a replica that revealed: `releaseBond` by anyone, `disputeWindow` after settlement, or after the demand's
///   deadline where its output was demanded. One that did not publish what was demanded: `slashWithheld` by anyone.
/// Nobody is slashed by vote: every bond of a replica that revealed, in the majority or not, stays locked through the
/// dispute window. Only the arbiter can slash it, or its provider's own silence when its output is demanded.
/// Jobs are priced, paid and bonded in the vault's stake token, so that a bond and a price can be compared.
interface IJobs is ISubject {
    event JobPosted(bytes32 indexed jobId, address indexed client, bytes32 indexed modelId, JobView job);
    /// @dev `terms` is the quote that was accepted for this replica.
    event ReplicaAssigned(bytes32 indexed jobId, address indexed provider, bytes32 quoteDigest, Quote terms);
    /// @dev Only for a job whose replicas are drawn. `terms` is what whoever is drawn is offered; its provider is 0.
    event DrawOpened(bytes32 indexed jobId, Quote terms);
    /// @dev The hash of `drawBlock` draws from now on: the former one was out of reach, or, where `failed`, drew too few.
    event DrawArmed(bytes32 indexed jobId, uint256 drawBlock, bool failed);
    event ReplicaDrawn(bytes32 indexed jobId, address indexed provider);
    /// @dev The replicas are drawn; they may commit until `commitDeadline`.
    event Drawn(bytes32 indexed jobId, uint64 commitDeadline);
    /// @dev The chain gave this job the seed of its answer. Emitted once: by the draw, the first commit, or `fixSeed`.
    event SeedFixed(bytes32 indexed jobId, bytes32 seed);
    /// @dev Nobody was drawn in time. What is neither fee nor refund does not exist.
    event DrawLapsed(bytes32 indexed jobId, uint256 refunded, uint256 burnt);
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
    /// @dev The provider must publish its output until `deadline`. `price` is held beside the fee where the client did not
    /// pay for the output, else 0.
    event RevealDemanded(
        bytes32 indexed jobId, address indexed provider, address indexed demander, uint64 deadline, uint256 price
    );
    /// @dev `ids` are the tokens of `output`: uint32 big-endian, last word padded with 0xff…
    event OutputPublished(bytes32 indexed jobId, address indexed provider, Output output, bytes ids);
    /// @dev The demand is over and its fee went to `feeTo`: the provider that published, else the demander.
    event DemandClosed(bytes32 indexed jobId, address indexed provider, address feeTo);
    /// @dev The price that a demander had paid left: to the provider with its bond, back where that was slashed.
    event DemandPricePaid(bytes32 indexed jobId, address indexed provider, address to, uint256 price);
    /// @dev `refunded`, the reward and what was burnt are the bond. Half of the reward is the requester's, the rest the
    /// prover's. The escrow of a job that had not paid goes back beside it (Expired).
    event BondSlashed(
        bytes32 indexed jobId,
        address indexed provider,
        address indexed prover,
        address requester,
        uint256 refunded,
        uint256 reward,
        uint256 burnt
    );

    // deployment
    error UnbondingTooShort(uint256 window, uint256 minimum);
    error ShareOutOfRange(uint256 shareBps, uint256 minimum, uint256 maximum);
    error NoDemandFee();
    // post
    error ModeNotBuilt(Mode mode);
    error BadQuorum(uint256 quorum, uint256 replicas);
    error WindowOutOfRange(uint256 window, uint256 minimum, uint256 maximum);
    error EmptyInput();
    error NoOutputAsked();
    error BadSampler(uint8 sampler);
    error NotJudged(bytes32 modelId, uint8 sampler);
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
    error BadDraw(uint256 draw, uint256 quotes);
    error DrawFeeTooSmall(uint256 killFee, uint256 minimum);
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
    error DrawNotReady(bytes32 jobId, uint256 drawBlock);
    error NotSeededByChain(bytes32 jobId);
    error SeedNotReady(bytes32 jobId, uint256 seedBlock);
    error SeedOutOfReach(bytes32 jobId, uint256 seedBlock);
    error NothingOwed(bytes32 jobId, address provider);
    error AlreadyDemanded(bytes32 jobId, address provider);
    error NotDemanded(bytes32 jobId, address provider);
    error DemandOpen(bytes32 jobId, address provider, uint256 deadline);
    error OutputMalformed(uint256 outputTokens, uint256 length);
    error OutputMismatch(bytes32 expected, bytes32 got);
    error NotArbiter(address caller);

    /// @notice Opens a job. jobId = keccak256(abi.encode(chainId, jobs, client, clientNonce[client])).
    /// Effect: Σ price(inputTokens, maxOutputTokens) of the quotes moves from the caller to this module as escrow.
    /// Requirements: mode NONE (k = n = 1), QUORUM (2 ≤ k ≤ n ≤ MAX_REPLICAS, 2k > n) or OPTIMISTIC (k = n = 1, and the
    /// arbiter can judge the model, the sampler and the lengths, else NotJudged); windows in range; greedy or
    /// seeded request, by itself or by the chain (then its seed field is 0); per quote: signed by its provider, unexpired, for this client, model, request, mode and token,
    /// inside its limits, used once per client, no provider twice, bond·(1 − challengerShare) ≥ price(maxInput,
    /// maxOutput), killFee ≤ price, price ≤ missFee ≤ bond; escrow ≤ maxEscrow. With `draw` = n there is exactly one
    /// quote, by provider 0 and without a signature: the terms that the client offers to the n providers to be drawn.
    /// It is held to the same rules and its killFee is at least DRAW_FEE_BPS of the price, so that a client who dislikes
    /// the draw does not leave for nothing.
    function post(JobParams calldata params) external returns (bytes32 jobId);
    /// @notice Draws the replicas of a DRAWING job out of the registry, from the hash of its draw block: the one in which
    /// it was posted. Anyone, in any later block (else DrawNotReady), until the deadline. Where that hash is out of reach
    /// (256 blocks on), or draws too few that take the terms, this block becomes the draw block. The commit window
    /// begins with the draw.
    function draw(bytes32 jobId) external;
    /// @notice Stores the seed of a job whose answer the chain seeds (sampler 2, else NotSeededByChain): keccak256(abi.encode(
    /// jobId, hash of the seed block)). The seed block is the posting block, or the block that drew the replicas. Anyone,
    /// while the job is OPEN; the draw does it, or the first commit, so that this is for a job that waits long: not in the
    /// posting block (SeedNotReady), and not once its hash is out of reach (SeedOutOfReach): 8,191 blocks on, 256 where
    /// the chain lacks EIP-2935. Then nobody can commit any more, and the job ends as one that nobody took. Fixing again
    /// changes nothing.
    function fixSeed(bytes32 jobId) external;
    /// @notice Publishes the caller's salted commitment and locks its bond. OPEN, until the commit deadline. Where the chain
    /// seeds the answer, the first commit fixes the seed and is refused as `fixSeed` is.
    function commit(bytes32 jobId, bytes32 commitment) external;
    /// @notice Opens the caller's commitment. finish must be 1 or 2, outputTokens in 1…maxOutputTokens, and exactly
    /// maxOutputTokens where finish is 2. After the reveal deadline, until somebody settles, only an output equal to
    /// the agreed one is taken, and earns the kill fee.
    function reveal(bytes32 jobId, Output calldata output, bytes32 salt) external;
    /// @notice Moves the money and makes the job final. Anyone. An OPTIMISTIC answer is paid once nobody can dispute it
    /// any more: `disputeWindow` after its reveal, or after it was published; not while it is disputed or withheld.
    function settle(bytes32 jobId) external;
    /// @notice Takes the job back before the first commit; each assigned replica gets its kill fee. Only the client.
    function cancel(bytes32 jobId) external;
    /// @notice Returns the bond of a replica that revealed to its stake once the dispute window is over, or, where
    /// it is disputed and the arbiter let its deadline pass, once that is over. Anyone. What a demander paid as the price
    /// of its output is the provider's then.
    function releaseBond(bytes32 jobId, address provider) external;
    /// @notice Demands the output of a replica that revealed, for `demandCostOf` it: once per replica, inside its dispute
    /// window, by the client, or by anyone if the input was inline. The provider has `demandWindow` to publish it; from
    /// then on the output can be disputed for a whole window. A replica in the minority, or of a job without agreement,
    /// was not paid: its demander pays its price too, which is held until the bond is released.
    /// @param permit as in `post`
    function demandReveal(bytes32 jobId, address provider, bytes calldata permit) external;
    /// @notice Answers a demand of the caller's output, until its deadline, and earns the fee. An OPTIMISTIC answer can
    /// be published without a demand, so that anyone can check it before it is paid.
    /// @param ids the output's tokens: uint32 big-endian, last word padded with 0xff…
    function publishOutput(bytes32 jobId, bytes calldata ids) external;
    /// @notice Slashes the bond of a replica that let a demand pass: the client is refunded what the replica was paid (the
    /// whole escrow where nothing was), the demander gets its fee and price back and the challengers' share, the rest is burnt.
    /// Anyone. A disputed bond waits for the arbiter or its deadline.
    function slashWithheld(bytes32 jobId, address provider) external;

    function job(bytes32 jobId) external view returns (JobView memory);
    function replicas(bytes32 jobId) external view returns (ReplicaView[] memory);
    /// @return seed with which the answer is sampled, where the chain gives it (sampler 2); 0 before it can be known, and
    /// once the hash of the seed block is out of reach and nobody fixed it; until it is fixed, a reorganisation may change it
    /// @return seedBlock whose hash it comes from; 0 where the chain gives none
    /// @return isFixed whether it is stored, for good
    function seedOf(bytes32 jobId) external view returns (bytes32 seed, uint256 seedBlock, bool isFixed);
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
    function registry() external view returns (address);
    function stakeToken() external view returns (address);
    function arbiter() external view returns (address);
    /// @return seconds a revealed bond stays locked after settlement
    function disputeWindow() external view returns (uint64);
    /// @return base units of the stake token that a demand of DEMAND_FEE_TOKENS tokens or fewer costs, and a provider
    /// that publishes them earns
    function demandFee() external view returns (uint128);
    /// @notice What a demand of the output of `provider` costs once its job is final: fee + price.
    /// @return fee demandFee · ⌈its tokens / DEMAND_FEE_TOKENS⌉, to the provider that publishes; 0 before it revealed
    /// @return price of an output that the client did not pay for; 0 where it did
    function demandCostOf(bytes32 jobId, address provider) external view returns (uint256 fee, uint256 price);
    function DEMAND_FEE_TOKENS() external view returns (uint256);
    /// @return seconds in which a provider must publish what is demanded
    function demandWindow() external view returns (uint64);
    /// @return least kill fee of a drawn job, in basis points of its price
    function DRAW_FEE_BPS() external view returns (uint256);
    /// @return the challenger's share of a slashed bond, in basis points
    function challengerShareBps() external view returns (uint16);
    function MAX_REPLICAS() external view returns (uint256);
    function MIN_WINDOW() external view returns (uint256);
    function MAX_WINDOW() external view returns (uint256);
    /// @return seconds after the dispute window by which the arbiter must have resolved; later the bond is released
    function DISPUTE_DEADLINE() external view returns (uint256);
    function MAX_CHALLENGER_SHARE_BPS() external view returns (uint256);
}
