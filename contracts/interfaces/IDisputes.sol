// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IArbiter} from "./IArbiter.sol";
import {ISubject} from "./ISubject.sol";
import {Accusation, Claim, OutputAccusation} from "./Trace.sol";
import {Model, Output, Request} from "./Wire.sol";

/// @dev OPEN → GUILTY | NOT_GUILTY | EXPIRED. No way back, and no second dispute about the same answer.
enum DisputeState {
    NONE,
    OPEN,
    GUILTY,
    NOT_GUILTY,
    EXPIRED // the subject took no verdict; the prepayments went back
}

/// @dev What a provider was found guilty of.
enum Fault {
    LENGTHS, // the ids themselves break the rules about lengths, stop tokens and vocabulary
    CONTRADICTION, // another output was signed for the same request
    MISSED, // a reply was not given in time
    ELEMENT, // an element differs from what its inputs give
    OUTPUT, // another id beats the one that was returned
    OUTSIDE // a node outside the program is not EMPTY
}

/// @notice Everything `dispute` needs. The hashes of request, model and output are the subject's.
struct DisputeParams {
    ISubject subject;
    bytes32 subjectId;
    address provider;
    Request request;
    bytes proof; // what the subject wants to see beside the request; empty for a job
    Model model;
    Output output;
    bytes inputIds; // uint32 big-endian, last word padded with 0xff…
    bytes outputIds; // likewise
    bytes permit; // empty, or an ERC-2612 permit for the vault (IVault.fund)
}

/// @notice A node, and how it hangs below one that was answered.
struct NodePath {
    uint256 depth;
    uint256 index;
    bytes32 hash;
    bytes32[] path; // siblings from the node up to the answered one, lowest first
}

/// @notice A dispute as it stands. `state` is the stored one: past deadlines show only once somebody acts on them.
struct DisputeView {
    DisputeState state;
    uint64 endAt; // unix seconds, the last in which anything can be proved
    uint32 unanswered; // requests without a reply, the root's among them
    uint128 prepaid; // base units of the stake token that the dispute still holds
    bytes32 claimHash; // keccak256(abi.encode(Claim))
    bytes32 root; // of the trace; 0 before the provider gave it
}

/// @notice A node that was requested. The root is node (0, 0), requested by who opened the dispute.
struct NodeView {
    address requester; // nobody: it was not requested
    uint64 deadline; // unix seconds, the last in which it can be answered
    bool answered;
    uint8 levels; // that a reply shows; 0 for a leaf
    uint32 payloadBytes; // of a leaf, before its padding
    bytes32 hash;
}

/// @title The game about one answer: show what you computed until somebody shows what is wrong with it
/// @notice Normative: docs/disputes.md, section 4. Whoever doubts an answer opens a dispute; the provider gives the root
/// of its trace; anyone requests nodes below it, each for a prepayment; a reply that is missed, and a number that is
/// proved wrong, make the provider guilty. Nothing is closed by losing, and a node is requested once for everybody.
/// Node (depth, index): the root is (0, 0), the children of (d, i) are (d + 1, 2i) and (d + 1, 2i + 1).
/// Funds leave by a published time through one transaction of anyone: `close` after `endAt`; whatever happened, `expire`
/// EXPIRY_WINDOW later; `refund` once the provider was guilty or the dispute expired. In a deprecated vault, which takes
/// no money in, disputes and requests are free: a liar must not be safe there.
interface IDisputes is IArbiter {
    /// @dev `inputIds` and `outputIds` are all that is needed to compute the trace.
    event Disputed(
        bytes32 indexed disputeId,
        address indexed opener,
        Claim claim,
        uint64 endAt,
        uint64 deadline,
        bytes inputIds,
        bytes outputIds
    );
    event RootGiven(bytes32 indexed disputeId, bytes32 root, bytes32[] hashes);
    event NodeRequested(
        bytes32 indexed disputeId,
        address indexed requester,
        uint256 depth,
        uint256 index,
        bytes32 hash,
        uint8 levels,
        uint64 deadline
    );
    /// @dev `hashes` are those of the nodes `levels` below, from left to right.
    event HashesGiven(bytes32 indexed disputeId, uint256 depth, uint256 index, bytes32[] hashes);
    event PayloadGiven(bytes32 indexed disputeId, uint256 depth, uint256 index, bytes payload);
    event FaultFound(bytes32 indexed disputeId, Fault fault, address requester, address prover);
    /// @dev Not guilty: what the replies earned, and what was burnt.
    event RepliesPaid(bytes32 indexed disputeId, address indexed provider, uint256 paid, uint256 burnt);
    event PrepaymentRefunded(bytes32 indexed disputeId, address indexed payer, uint256 amount);
    event DisputeExpired(bytes32 indexed disputeId);

    // deployment
    error ReplyWindowOutOfRange(uint256 window, uint256 minimum, uint256 maximum);
    error NoReplyFee();
    // opening
    error AlreadyDisputed(bytes32 disputeId);
    error HashMismatch(bytes32 field, bytes32 expected, bytes32 got);
    error IdsMalformed(uint256 length);
    error DisputeEndOutOfRange(uint256 disputeEnd, uint256 minimum, uint256 maximum);
    error ProgramNotAccepted(bytes32 programRoot);
    error TablesNotAccepted(bytes32 tablesRoot);
    error PromptWithoutTrace(bytes32 reason);
    /// @notice The request takes its seed from the chain, and the subject has none for the answer.
    error NoSeed(ISubject subject, bytes32 subjectId);
    error FinishNotJudged(uint8 finish);
    error TooManyRounds(uint256 rounds, uint256 limit);
    error NoContradiction(bytes32 disputeId);
    // playing
    error WrongDisputeState(bytes32 disputeId, DisputeState has, DisputeState needs);
    error ClaimMismatch(bytes32 disputeId, bytes32 expected, bytes32 got);
    error NotProvider(bytes32 disputeId, address caller);
    error NotAnswered(bytes32 disputeId, uint256 depth, uint256 index);
    error NoSuchPlace(bytes32 disputeId, uint256 depth, uint256 index);
    error NotRequested(bytes32 disputeId, uint256 depth, uint256 index);
    error AlreadyAnswered(bytes32 disputeId, uint256 depth, uint256 index);
    error AlreadyRequested(bytes32 disputeId, uint256 depth, uint256 index);
    error NodeOutside(bytes32 disputeId, uint256 depth, uint256 index);
    error NodeInside(bytes32 disputeId, uint256 depth, uint256 index);
    error BadPath(bytes32 disputeId, bytes32 expected, bytes32 got);
    error BadReply(bytes32 disputeId, bytes32 expected, bytes32 got);
    error BadReplyLength(bytes32 disputeId, uint256 expected, uint256 got);
    error BadPadding(bytes32 disputeId);
    error Unanswered(bytes32 disputeId, uint256 count);
    error NothingWrong(bytes32 disputeId);
    error PastDeadline(bytes32 disputeId, uint256 timestamp, uint256 deadline);
    error NotYet(bytes32 disputeId, uint256 timestamp, uint256 opensAt);
    error NothingToRefund(bytes32 disputeId, address payer);

    /// @notice Opens the dispute about one answer, for `rootFee`. Anyone, once per answer, inside the subject's window.
    /// Requirements: request, model, output and ids have the subject's hashes; the judge accepts program and tables; the
    /// trace exists. Ids that break the rules about lengths, stop tokens or vocabulary, or an output that is not in its
    /// canonical form, are judged at once: guilty, without a prepayment.
    function dispute(DisputeParams calldata params) external returns (bytes32 disputeId);
    /// @notice Shows that the provider signed two outputs for one request: guilty at once. Anyone, about an answer that is
    /// disputed or still can be.
    /// @param evidence as in `freeze`; not looked at where the dispute is open
    /// @param contradiction what the subject takes (ISubject.contradicts)
    function contradict(
        ISubject subject,
        bytes32 subjectId,
        address provider,
        bytes calldata evidence,
        bytes calldata contradiction
    ) external;
    /// @notice Gives the root of the trace, once and for ever. Only the provider, within replyWindow.
    /// @param hashes of the nodes `levels` below the root, from left to right
    function answerRoot(Claim calldata claim, bytes32[] calldata hashes) external;
    /// @notice Asks for a node, for `requestFee`. Anyone, once per node, until endAt − 2 · replyWindow.
    /// @param permit as in `dispute`
    function request(Claim calldata claim, NodePath calldata node, bytes calldata permit) external;
    /// @notice Answers the request of an inner node, within replyWindow. The hash decides what is right, so anyone may
    /// give it; the provider is paid.
    function answerHashes(bytes32 disputeId, uint256 depth, uint256 index, bytes32[] calldata hashes) external;
    /// @notice Answers the request of a leaf, likewise.
    function answerPayload(bytes32 disputeId, uint256 depth, uint256 index, bytes calldata payload) external;
    /// @notice Proves an element wrong, until endAt. Anyone.
    function prove(Claim calldata claim, Accusation calldata accusation) external;
    /// @notice Proves that another id beats the one that was returned, until endAt. Anyone.
    function proveOutput(Claim calldata claim, OutputAccusation calldata accusation) external;
    /// @notice Proves that a node outside the program is not EMPTY, until endAt. Anyone.
    function proveOutside(Claim calldata claim, NodePath calldata node) external;
    /// @notice Says that a reply is overdue. Anyone, until the dispute is over.
    function missed(Claim calldata claim, uint256 depth, uint256 index) external;
    /// @notice Ends a dispute in which every request was answered and nothing was proved, after endAt: not guilty. Anyone.
    function close(Claim calldata claim) external;
    /// @notice Ends a dispute whose subject took no verdict, EXPIRY_WINDOW after endAt; the prepayments go back. Anyone.
    function expire(bytes32 disputeId) external;
    /// @notice Returns what `payer` prepaid, once the provider was guilty or the dispute expired. Anyone.
    function refund(bytes32 disputeId, address payer) external;

    function disputeIdOf(ISubject subject, bytes32 subjectId, address provider) external pure returns (bytes32);
    function disputes(bytes32 disputeId) external view returns (DisputeView memory);
    function nodes(bytes32 disputeId, uint256 depth, uint256 index) external view returns (NodeView memory);
    /// @return base units that `payer` prepaid and has not got back
    function prepaidBy(bytes32 disputeId, address payer) external view returns (uint256);
    /// @return seconds from endAt until a dispute without a verdict can be expired
    function EXPIRY_WINDOW() external view returns (uint256);
    /// @return the most replies on a way down, the root's left out, that a dispute can have
    function MAX_ROUNDS() external view returns (uint256);
    function MIN_REPLY_WINDOW() external view returns (uint256);
    /// @return so that the longest dispute ends a day before subjects take no verdict any more
    function MAX_REPLY_WINDOW() external view returns (uint256);
    function vault() external view returns (address);
    function stakeToken() external view returns (address);
    function judge() external view returns (address);
    function replyWindow() external view returns (uint64);
    function rootFee() external view returns (uint96);
    function requestFee() external view returns (uint96);
}
