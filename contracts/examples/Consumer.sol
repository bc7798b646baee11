// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {
    BondState,
    IJobs,
    JobParams,
    JobState,
    JobView,
    ReplicaState,
    ReplicaView,
    SignedQuote
} from "../interfaces/IJobs.sol";
import {IVault} from "../interfaces/IVault.sol";
import {Mode, Output, Quote, Request} from "../interfaces/Wire.sol";
import {TokensRoot} from "../libraries/TokensRoot.sol";

/// @title Example: a contract that asks a model and reads the answer
/// @notice Anyone asks and pays; the contract posts a job whose providers are drawn by the chain, so nobody off chain
/// chooses who answers. The prompt is public (inline). Once the job is settled, anyone brings the answer's tokens: the
/// contract takes them only if they hash to what the quorum agreed on. A provider that withholds them can be made to
/// publish them: as the prompt is public, `jobs.demandReveal` is open to anyone.
/// @dev Not deployed by Assay. What a consumer does with the tokens is its own business: here they are stored.
contract Consumer {
    using SafeERC20 for IERC20;

    struct Question {
        address asker;
        bool answered;
        uint128 refunded; // base units, so far
    }

    uint8 public constant REPLICAS = 3;
    uint8 public constant QUORUM = 2;
    uint32 public constant WINDOW = 10 minutes;

    uint32 private constant NO_LIMIT = 65_536; // topPQ16

    IJobs public immutable jobs;
    IVault public immutable vault;
    IERC20 public immutable token;
    /// @notice 0: the likeliest token each time. Else chance decides, by a seed that the chain gives: neither the asker nor a
    /// provider can choose the answer (what that is worth: SECURITY.md).
    uint32 public immutable temperatureQ16;

    uint256 public asked;
    mapping(bytes32 jobId => Question) public questions;
    mapping(bytes32 jobId => bytes) public answers; // packed ids: uint32 big-endian, last word padded with 0xff…

    event Asked(bytes32 indexed jobId, address indexed asker);
    event Answered(bytes32 indexed jobId, bytes ids);

    error UnknownQuestion(bytes32 jobId);
    error NotSettled(bytes32 jobId, JobState state);
    error NotFinal(bytes32 jobId, JobState state);
    error AlreadyAnswered(bytes32 jobId);
    error NothingDue(bytes32 jobId);
    error NotTheAnswer(bytes32 jobId, bytes32 expected, bytes32 got);

    constructor(IJobs jobs_, uint32 temperatureQ16_) {
        jobs = jobs_;
        temperatureQ16 = temperatureQ16_;
        vault = IVault(jobs_.vault());
        token = IERC20(jobs_.stakeToken());
    }

    /// @notice Asks. The caller has approved `maxEscrow` of the token to this contract; what the job does not cost comes
    /// back with `refund`.
    /// @param ids the prompt's tokens, packed: uint32 big-endian, last word padded with 0xff…
    /// @param terms what is offered to whoever is drawn (provider 0): model, prices, fees, bond, limits
    function ask(
        bytes calldata ids,
        uint32 inputTokens,
        uint32 maxOutputTokens,
        bytes32 stopTokens,
        Quote calldata terms,
        uint128 maxEscrow
    ) external returns (bytes32 jobId) {
        jobId = jobs.jobIdOf(address(this), jobs.clientNonce(address(this)));
        questions[jobId].asker = msg.sender;
        emit Asked(jobId, msg.sender);

        SignedQuote[] memory quotes = new SignedQuote[](1);
        quotes[0].quote = terms;
        JobParams memory params = JobParams({
            mode: Mode.QUORUM,
            quorum: QUORUM,
            maxEscrow: maxEscrow,
            commitWindow: WINDOW,
            revealWindow: WINDOW,
            request: Request({
                modelId: terms.modelId,
                inputRoot: TokensRoot.root(ids),
                inputTokens: inputTokens,
                maxOutputTokens: maxOutputTokens,
                stopTokens: stopTokens,
                sampler: temperatureQ16 == 0 ? 0 : 2,
                temperatureQ16: temperatureQ16,
                topK: 0,
                topPQ16: temperatureQ16 == 0 ? 0 : NO_LIMIT,
                seed: 0,
                nonce: keccak256(abi.encode(address(this), asked++))
            }),
            quotes: quotes,
            permit: "",
            inlineInput: ids,
            draw: REPLICAS
        });
        // all of the cap goes into the vault as credit of this contract: what is not escrowed comes back right away
        token.safeTransferFrom(msg.sender, address(this), maxEscrow);
        token.forceApprove(address(vault), maxEscrow);
        vault.deposit(address(token), address(this), maxEscrow);
        jobs.post(params);
        uint256 unused = maxEscrow - jobs.job(jobId).escrow;
        if (unused != 0) vault.withdraw(address(token), msg.sender, unused);
    }

    /// @notice Brings the answer of a settled job. Anyone; it is checked against what was agreed on chain.
    function answer(bytes32 jobId, Output calldata output, bytes calldata ids) external {
        Question storage question = _question(jobId);
        if (question.answered) revert AlreadyAnswered(jobId);
        JobView memory job = jobs.job(jobId);
        if (job.state != JobState.SETTLED) revert NotSettled(jobId, job.state);
        bytes32 outputHash = jobs.hashOutput(output);
        if (outputHash != job.outputHash) revert NotTheAnswer(jobId, job.outputHash, outputHash);
        bytes32 root = TokensRoot.root(ids);
        if (root != output.outputRoot) revert NotTheAnswer(jobId, output.outputRoot, root);

        question.answered = true;
        answers[jobId] = ids;
        emit Answered(jobId, ids);
    }

    /// @notice Gives the asker what its job did not cost, once it is final, and what was refunded since. Anyone, again
    /// and again: a provider that is slashed later pays its price back.
    function refund(bytes32 jobId) external {
        Question storage question = _question(jobId);
        JobView memory job = jobs.job(jobId);
        if (job.finalAt == 0) revert NotFinal(jobId, job.state);
        uint256 due = _notSpent(jobId, job) - question.refunded;
        if (due == 0) revert NothingDue(jobId);
        question.refunded += uint128(due); // at most the escrow
        vault.withdraw(address(token), question.asker, due);
    }

    /// @return unspent the escrow, less what each provider keeps, less the fee of a draw that nobody made
    function _notSpent(bytes32 jobId, JobView memory job) private view returns (uint256 unspent) {
        unspent = job.escrow;
        ReplicaView[] memory replicas = jobs.replicas(jobId);
        for (uint256 i; i < replicas.length; ++i) {
            ReplicaView memory replica = replicas[i];
            if (replica.bondState != BondState.SLASHED) unspent -= replica.paid;
            if (replica.state == ReplicaState.UNDRAWN && !job.drawFailed) unspent -= replica.killFee;
        }
    }

    function _question(bytes32 jobId) private view returns (Question storage question) {
        question = questions[jobId];
        if (question.asker == address(0)) revert UnknownQuestion(jobId);
    }
}
