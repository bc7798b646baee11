// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SignedQuote} from "./IJobs.sol";
import {Request} from "./Wire.sol";

/// @dev OPEN → SETTLED | EXPIRED. No way back.
enum ProofJobState {
    NONE,
    OPEN, // the assigned provider may prove
    SETTLED, // a proof was accepted and paid
    EXPIRED // none came in time; the escrow went back
}

/// @notice Everything `post` needs.
struct ProofJobParams {
    uint128 maxEscrow; // base units; the caller's own cap on the price
    uint32 proofWindow; // seconds from the post in which the proof must be on chain
    Request request; // greedy; maxOutputTokens is the number of the model's outputs
    SignedQuote quote; // mode PROOF, without bond, miss fee and kill fee
    bytes permit; // empty, or an ERC-2612 permit for the vault (IVault.fund)
    bytes input; // empty (delivered directly), or the ids: uint32 big-endian, last word padded with 0xff…
}

struct ProofJobView {
    address client;
    ProofJobState state;
    address provider;
    uint64 proofDeadline;
    uint128 escrow; // the price, whole
    bytes32 requestHash;
    bytes32 outputHash; // hash of the proved Output; 0 before settlement
}

/// @title ProofJobs: one request, one provider, paid by the transaction that proves the answer
/// @notice A client posts with an escrow and one signed quote; the provider that signed it proves the answer, and is paid
/// by the same transaction. There is nothing to dispute afterwards, so no bond, no window and no second provider.
/// Funds leave every state by a published deadline through one transaction of anyone:
/// - OPEN: `settle` by the assigned provider until the proof deadline → SETTLED.
/// - OPEN, past it: `expire` by anyone → EXPIRED, the whole escrow goes back.
/// The answer is written on chain with its settlement.
interface IProofJobs {
    event ProofJobPosted(bytes32 indexed jobId, address indexed client, address indexed provider, ProofJobView job);
    /// @dev `input` is empty where the client delivers it directly.
    event ProofRequested(bytes32 indexed jobId, Request request, bytes input);
    /// @dev `ids` are the proved output: uint32 big-endian, last word padded with 0xff…
    event Proved(bytes32 indexed jobId, address indexed provider, bytes32 outputHash, uint256 paid, bytes ids);
    event ProofExpired(bytes32 indexed jobId, uint256 refunded);

    error UnknownProofJob(bytes32 jobId);
    error ProofJobNotOpen(bytes32 jobId, ProofJobState state);
    error NotTheProver(bytes32 jobId, address caller, address provider);
    error ProofTooLate(bytes32 jobId, uint256 timestamp, uint256 proofDeadline);
    error ProofNotDue(bytes32 jobId, uint256 timestamp, uint256 proofDeadline);
    error RequestMismatch(bytes32 jobId, bytes32 expected, bytes32 got);
    /// @dev The verifier returned false. What differs from the job is told by the verifier's own errors.
    error ProofRefused(bytes32 jobId);
    error ProofWindowOutOfRange(uint256 window, uint256 minimum, uint256 maximum);
    error ModelNotProvable(bytes32 modelId);
    error ShapeMismatch(bytes32 modelId, bytes32 field, uint256 expected, uint256 got);
    /// @dev A proof job has no such thing; the quote's must be 0.
    error NoCollateral(address provider, bytes32 field);

    /// @notice Posts a job. Requirements: the quote sells it to the caller (the rules of Jobs, without bond and fees), the
    /// request has the shape of a model whose verifier is registered, an input that is given is the request's.
    function post(ProofJobParams calldata params) external returns (bytes32 jobId);
    /// @notice Settles with the proof of an answer. Only the assigned provider, until the deadline.
    /// @param request that was posted
    /// @param ids of the output
    /// @param proof as the model's verifier takes it
    function settle(bytes32 jobId, Request calldata request, bytes calldata ids, bytes calldata proof) external;
    /// @notice Gives the escrow back once the deadline is past. Anyone.
    function expire(bytes32 jobId) external;

    function job(bytes32 jobId) external view returns (ProofJobView memory);
    function jobIdOf(address client, uint256 nonce) external view returns (bytes32);
    function clientNonce(address client) external view returns (uint256);
    function quoteUsed(bytes32 quoteDigest, address client) external view returns (bool);
    function vault() external view returns (address);
    function verifier() external view returns (address);
    function stakeToken() external view returns (address);
    function MIN_WINDOW() external view returns (uint256);
    function MAX_WINDOW() external view returns (uint256);
}
