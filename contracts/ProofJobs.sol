// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {IJobs, SignedQuote} from "./interfaces/IJobs.sol";
import {IProofJobs, ProofJobParams, ProofJobState, ProofJobView} from "./interfaces/IProofJobs.sol";
import {IProofVerifier, Statement} from "./interfaces/IProofVerifier.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Mode, Output, Quote, Request} from "./interfaces/Wire.sol";
import {JobRecords} from "./libraries/JobRecords.sol";
import {Payout} from "./libraries/Payout.sol";
import {QuoteRules} from "./libraries/QuoteRules.sol";
import {TokensRoot} from "./libraries/TokensRoot.sol";
import {WireHash} from "./libraries/WireHash.sol";

/// @dev Reenters nowhere: signatures and proofs are checked by static calls, and the vault is called last. Time: a
/// deadline's own second still belongs to it.
contract ProofJobs is IProofJobs, EIP712 {
    struct ProofJob {
        address client;
        uint40 proofDeadline;
        ProofJobState state;
        address provider;
        uint128 escrow;
        bytes32 requestHash;
        bytes32 outputHash;
    }

    /// @dev As in Jobs: who watches can always reach the chain inside a window.
    uint256 public constant MIN_WINDOW = 30;
    uint256 public constant MAX_WINDOW = 1 days;
    uint8 private constant FINISH_LENGTH = 2;

    address public immutable vault;
    address public immutable stakeToken;
    address public immutable verifier;

    mapping(address client => uint256) public clientNonce;
    mapping(bytes32 quoteDigest => mapping(address client => bool)) public quoteUsed;
    mapping(bytes32 jobId => ProofJob) private _jobs;

    constructor(address vault_, address verifier_) EIP712("Assay Proofs", "1") {
        vault = vault_;
        stakeToken = IVault(vault_).stakeToken();
        verifier = verifier_;
    }

    function post(ProofJobParams calldata params) external returns (bytes32 jobId) {
        // INVARIANT: no window is too short to be met, or keeps an escrow for long
        if (params.proofWindow < MIN_WINDOW || params.proofWindow > MAX_WINDOW) {
            revert ProofWindowOutOfRange(params.proofWindow, MIN_WINDOW, MAX_WINDOW);
        }
        Request calldata request = params.request;
        QuoteRules.checkRequest(request);
        // INVARIANT: a proof says nothing of sampling
        if (request.sampler != QuoteRules.GREEDY) revert IJobs.BadSampler(request.sampler);
        _checkShape(request);
        if (params.input.length != 0) QuoteRules.checkInline(request, params.input);
        bytes32 requestHash = WireHash.request(request);
        uint256 price = _useQuote(params.quote, request, requestHash);
        // INVARIANT: a client never pays more than it said
        if (price > params.maxEscrow) revert IJobs.EscrowAboveCap(price, params.maxEscrow);

        jobId = jobIdOf(msg.sender, clientNonce[msg.sender]++);
        ProofJob storage record = _jobs[jobId];
        record.client = msg.sender;
        record.proofDeadline = uint40(block.timestamp + params.proofWindow);
        record.state = ProofJobState.OPEN;
        record.provider = params.quote.quote.provider;
        record.escrow = uint128(price); // at most maxEscrow
        record.requestHash = requestHash;
        emit ProofJobPosted(jobId, msg.sender, record.provider, _view(record));
        emit ProofRequested(jobId, request, params.input);
        IVault(vault).fund(stakeToken, msg.sender, price, params.permit);
    }

    function settle(bytes32 jobId, Request calldata request, bytes calldata ids, bytes calldata proof) external {
        ProofJob storage record = _open(jobId);
        // INVARIANT: only the provider that was chosen is paid: a proof that is seen on its way is worth nothing to others
        if (msg.sender != record.provider) revert NotTheProver(jobId, msg.sender, record.provider);
        // INVARIANT: a client's money is bound no longer than it said
        if (block.timestamp > record.proofDeadline) {
            revert ProofTooLate(jobId, block.timestamp, record.proofDeadline);
        }
        bytes32 requestHash = WireHash.request(request);
        // INVARIANT: what is proved is the request that was paid for
        if (requestHash != record.requestHash) revert RequestMismatch(jobId, record.requestHash, requestHash);
        Statement memory statement = Statement(jobId, request.modelId, request.inputRoot, request.inputTokens);
        // INVARIANT: nothing is paid without a proof
        if (!IProofVerifier(verifier).verify(statement, ids, proof)) revert ProofRefused(jobId);

        bytes32 outputHash =
            WireHash.outputInMemory(Output(TokensRoot.root(ids), request.maxOutputTokens, FINISH_LENGTH));
        (record.state, record.outputHash) = (ProofJobState.SETTLED, outputHash);
        uint256 paid = record.escrow;
        emit Proved(jobId, msg.sender, outputHash, paid, ids);
        if (paid != 0) IVault(vault).pay(stakeToken, msg.sender, paid);
    }

    function expire(bytes32 jobId) external {
        ProofJob storage record = _open(jobId);
        // INVARIANT: nobody takes a job from a provider that may still prove it
        if (block.timestamp <= record.proofDeadline) {
            revert ProofNotDue(jobId, block.timestamp, record.proofDeadline);
        }
        record.state = ProofJobState.EXPIRED;
        uint256 refunded = record.escrow;
        emit ProofExpired(jobId, refunded);
        if (refunded != 0) IVault(vault).pay(stakeToken, record.client, refunded);
    }

    function job(bytes32 jobId) external view returns (ProofJobView memory) {
        return _view(_known(jobId));
    }

    function jobIdOf(address client, uint256 nonce) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), client, nonce));
    }

    /// @dev INVARIANT: nothing is posted that nobody could prove
    function _checkShape(Request calldata request) private view {
        (uint32 inputs, uint32 outputs) = IProofVerifier(verifier).shapeOf(request.modelId);
        if (inputs == 0) revert ModelNotProvable(request.modelId);
        if (request.inputTokens != inputs) {
            revert ShapeMismatch(request.modelId, "inputTokens", inputs, request.inputTokens);
        }
        if (request.maxOutputTokens != outputs) {
            revert ShapeMismatch(request.modelId, "maxOutputTokens", outputs, request.maxOutputTokens);
        }
    }

    /// @return price of the job
    function _useQuote(SignedQuote calldata signed, Request calldata request, bytes32 requestHash)
        private
        returns (uint256 price)
    {
        Quote calldata quote = signed.quote;
        QuoteRules.checkSubject(quote, request, Mode.PROOF, requestHash, stakeToken);
        // INVARIANT: nobody is promised what this contract does not keep
        if (quote.bond != 0) revert NoCollateral(quote.provider, "bond");
        if (quote.missFee != 0) revert NoCollateral(quote.provider, "missFee");
        if (quote.killFee != 0) revert NoCollateral(quote.provider, "killFee");
        bytes32 digest = _hashTypedDataV4(WireHash.quote(quote));
        // INVARIANT: a quote is accepted once per client
        if (quoteUsed[digest][msg.sender]) revert IJobs.QuoteUsed(quote.provider, digest);
        // INVARIANT: nobody is bound by terms it did not sign
        if (!SignatureChecker.isValidSignatureNowCalldata(quote.provider, digest, signed.signature)) {
            revert IJobs.BadSignature(quote.provider);
        }
        quoteUsed[digest][msg.sender] = true;
        return Payout.price(JobRecords.termsOf(quote), request.inputTokens, request.maxOutputTokens);
    }

    function _known(bytes32 jobId) private view returns (ProofJob storage record) {
        record = _jobs[jobId];
        // INVARIANT: nothing moves for a job that nobody posted
        if (record.state == ProofJobState.NONE) revert UnknownProofJob(jobId);
    }

    function _open(bytes32 jobId) private view returns (ProofJob storage record) {
        record = _known(jobId);
        // INVARIANT: a job ends once
        if (record.state != ProofJobState.OPEN) revert ProofJobNotOpen(jobId, record.state);
    }

    function _view(ProofJob storage record) private view returns (ProofJobView memory) {
        return ProofJobView({
            client: record.client,
            state: record.state,
            provider: record.provider,
            proofDeadline: record.proofDeadline,
            escrow: record.escrow,
            requestHash: record.requestHash,
            outputHash: record.outputHash
        });
    }
}
