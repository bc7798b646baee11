// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {
    DisputeParams,
    DisputeState,
    DisputeView,
    Fault,
    IDisputes,
    NodePath,
    NodeView
} from "./interfaces/IDisputes.sol";
import {IJudge} from "./interfaces/IJudge.sol";
import {Frozen, ISubject} from "./interfaces/ISubject.sol";
import {Accusation, Claim, OutputAccusation, Shape} from "./interfaces/Trace.sol";
import {IVault} from "./interfaces/IVault.sol";
import {Model, Request} from "./interfaces/Wire.sol";
import {ClaimRules} from "./libraries/ClaimRules.sol";
import {Fold} from "./libraries/Fold.sol";
import {Openings} from "./libraries/Openings.sol";

/// @dev Subjects are whoever the caller names: one that lies, reverts or calls back is alone with its own dispute, whose
/// prepayments are counted apart, and every function that moves anything is shut while another one runs. A subject is
/// called last, but for `freeze`, which says when the dispute ends. Time: a deadline's own second still belongs to it.
contract Disputes is IDisputes, ReentrancyGuardTransient, Multicall {
    /// @dev Two slots. Seconds in 40 bits last 34,000 years; no sum of the stake token is above 2^104 (IVault).
    struct Dispute {
        bytes32 claimHash;
        uint40 endAt;
        DisputeState state;
        uint32 unanswered;
        uint104 prepaid;
    }

    /// @dev Two slots.
    struct Node {
        bytes32 hash; // of the root: 0 until it is given
        address requester;
        uint40 deadline;
        uint8 levels;
        uint24 payloadBytes;
        bool answered;
    }

    uint256 public constant EXPIRY_WINDOW = 7 days;
    /// @dev Groups in two reveals, one of them the root's own; operations in one; a section of 2^12 rows and 2^25 slots
    /// in eight; the payload: the judge's programs have no more.
    uint256 public constant MAX_ROUNDS = 11;
    /// @dev Two 12-second blocks and a missed one.
    uint256 public constant MIN_REPLY_WINDOW = 30;
    /// @dev Subjects take a verdict for 7 days (ISubject); the last of them is for whoever says that a reply was missed.
    uint256 public constant MAX_REPLY_WINDOW = 6 days / (2 * MAX_ROUNDS + 3);
    /// @dev No bond is locked for longer than a vault lets exits wait.
    uint256 private constant MAX_DISPUTE_WINDOW = 365 days;
    uint256 private constant MAX_DEPTH = 64;
    address private constant BURNT = address(0xdead);

    address public immutable vault;
    address public immutable stakeToken;
    address public immutable judge;
    uint64 public immutable replyWindow;
    uint96 public immutable rootFee;
    uint96 public immutable requestFee;

    mapping(bytes32 disputeId => Dispute) private _disputes;
    mapping(bytes32 disputeId => mapping(uint256 key => Node)) private _nodes;
    mapping(bytes32 disputeId => mapping(address payer => uint256)) public prepaidBy;

    /// @param replyWindow_ seconds; a trace must be computed, and the chain reached, in it
    /// @param rootFee_ base units of the stake token; it should pay for the gas of `answerRoot`, half as much again
    /// @param requestFee_ likewise, of `answerHashes`
    constructor(address vault_, address judge_, uint64 replyWindow_, uint96 rootFee_, uint96 requestFee_) {
        // INVARIANT: replies can be given, and every dispute is over while subjects still take a verdict
        if (replyWindow_ < MIN_REPLY_WINDOW || replyWindow_ > MAX_REPLY_WINDOW) {
            revert ReplyWindowOutOfRange(replyWindow_, MIN_REPLY_WINDOW, MAX_REPLY_WINDOW);
        }
        // INVARIANT: every reply that anybody asks for has a price
        if (rootFee_ == 0 || requestFee_ == 0) revert NoReplyFee();
        vault = vault_;
        stakeToken = IVault(vault_).stakeToken();
        judge = judge_;
        replyWindow = replyWindow_;
        rootFee = rootFee_;
        requestFee = requestFee_;
    }

    // ------------------------------------------------------------------------------------------------ opening

    function dispute(DisputeParams calldata params) external nonReentrant returns (bytes32 id) {
        Frozen memory frozen;
        (id, frozen) = _freeze(
            params.subject, params.subjectId, params.provider, bytes.concat(abi.encode(params.request), params.proof)
        );
        ClaimRules.checkHashes(params, frozen);
        Shape memory shape = _shape(params.model);
        ClaimRules.checkTrace(params.request, params.inputIds, shape.vocabulary, shape.context);
        uint8 finish = params.output.finish;
        // INVARIANT: the rules about lengths are those of answers that came to their end
        if (finish != ClaimRules.FINISH_STOP && finish != ClaimRules.FINISH_LENGTH) revert FinishNotJudged(finish);

        emit DisputeOpened(params.subject, params.subjectId, params.provider, msg.sender);
        if (ClaimRules.isFaulty(params.request, params.output, params.outputIds, shape.vocabulary)) {
            _convict(id, Fault.LENGTHS, msg.sender, params.subject, params.subjectId, params.provider);
        } else {
            _open(id, params, frozen);
        }
    }

    function contradict(
        ISubject subject,
        bytes32 subjectId,
        address provider,
        bytes calldata evidence,
        bytes calldata contradiction
    ) external nonReentrant {
        bytes32 id = disputeIdOf(subject, subjectId, provider);
        if (_disputes[id].state != DisputeState.OPEN) {
            _freeze(subject, subjectId, provider, evidence);
            emit DisputeOpened(subject, subjectId, provider, msg.sender);
        }
        // INVARIANT: one request has one answer
        if (!subject.contradicts(subjectId, provider, contradiction)) revert NoContradiction(id);
        _convict(id, Fault.CONTRADICTION, msg.sender, subject, subjectId, provider);
    }

    // ----------------------------------------------------------------------------------------------- requests

    function request(Claim calldata claim, NodePath calldata wanted, bytes calldata permit) external nonReentrant {
        (bytes32 id, Dispute storage record) = _opened(claim);
        // INVARIANT: every reply is due, and can be proved wrong, before the end
        _notAfter(id, record.endAt - 2 * uint256(replyWindow));
        Node storage node = _node(id, wanted.depth, wanted.index);
        // INVARIANT: a node is requested once, for everybody
        if (node.requester != address(0)) revert AlreadyRequested(id, wanted.depth, wanted.index);
        _checkPath(id, wanted);
        _place(node, id, claim, wanted);
        ++record.unanswered;
        _prepay(id, record, requestFee, permit);
    }

    // ------------------------------------------------------------------------------------------------ replies

    function answerRoot(Claim calldata claim, bytes32[] calldata hashes) external nonReentrant {
        (bytes32 id, Dispute storage record) = _opened(claim);
        // INVARIANT: the trace is what its provider says it is
        if (msg.sender != claim.provider) revert NotProvider(id, msg.sender);
        Node storage node = _due(id, 0, 0);
        bytes32 root = _folded(id, node, hashes);
        node.hash = root;
        _answered(record, node);
        emit RootGiven(id, root, hashes);
    }

    function answerHashes(bytes32 id, uint256 depth, uint256 index, bytes32[] calldata hashes) external nonReentrant {
        Dispute storage record = _openRecord(id);
        Node storage node = _due(id, depth, index);
        bytes32 got = _folded(id, node, hashes);
        // INVARIANT: a reply is what the node's hash was made from
        if (got != node.hash) revert BadReply(id, node.hash, got);
        _answered(record, node);
        emit HashesGiven(id, depth, index, hashes);
    }

    function answerPayload(bytes32 id, uint256 depth, uint256 index, bytes calldata payload) external nonReentrant {
        Dispute storage record = _openRecord(id);
        Node storage node = _due(id, depth, index);
        uint256 used = node.payloadBytes;
        uint256 length = (used + 31) & ~uint256(31);
        // INVARIANT: a leaf has exactly its elements, and nothing is hidden behind them
        if (node.levels != 0 || payload.length != length) revert BadReplyLength(id, length, payload.length);
        if (used != length) {
            uint256 last = uint256(bytes32(payload[length - 32:]));
            if (last << (8 * (used % 32)) != 0) revert BadPadding(id);
        }
        bytes32 got = Openings.leafHash(payload);
        if (got != node.hash) revert BadReply(id, node.hash, got);
        _answered(record, node);
        emit PayloadGiven(id, depth, index, payload);
    }

    // ------------------------------------------------------------------------------------------------- proofs

    function prove(Claim calldata claim, Accusation calldata accusation) external nonReentrant {
        (bytes32 id, bytes32 root) = _provable(claim);
        if (!IJudge(judge).isWrong(claim, root, accusation)) revert NothingWrong(id);
        (uint256 depth, uint256 index) =
            IJudge(judge).leafOf(claim, accusation.group, accusation.operation, accusation.row, accusation.slot);
        _convict(id, Fault.ELEMENT, _requesterOf(id, depth, index), claim.subject, claim.subjectId, claim.provider);
    }

    function proveOutput(Claim calldata claim, OutputAccusation calldata accusation) external nonReentrant {
        (bytes32 id, bytes32 root) = _provable(claim);
        if (!IJudge(judge).isOutputWrong(claim, root, accusation)) revert NothingWrong(id);
        (uint256 depth, uint256 index) = IJudge(judge).logitsLeafOf(claim, accusation.position, accusation.rival);
        _convict(id, Fault.OUTPUT, _requesterOf(id, depth, index), claim.subject, claim.subjectId, claim.provider);
    }

    function proveOutside(Claim calldata claim, NodePath calldata node) external nonReentrant {
        (bytes32 id,) = _provable(claim);
        _node(id, node.depth, node.index); // the place exists
        address requester = _checkPath(id, node);
        (uint256 height,, bool inside) = IJudge(judge).nodeAt(claim, node.depth, node.index);
        // INVARIANT: nothing is hidden where the program has nothing
        if (inside) revert NodeInside(id, node.depth, node.index);
        if (node.hash == Fold.empty(height)) revert NothingWrong(id);
        _convict(id, Fault.OUTSIDE, requester, claim.subject, claim.subjectId, claim.provider);
    }

    // -------------------------------------------------------------------------------------------------- ends

    function missed(Claim calldata claim, uint256 depth, uint256 index) external nonReentrant {
        (bytes32 id,) = _opened(claim);
        Node storage node = _pending(id, depth, index);
        // INVARIANT: nobody is late before its deadline is over
        _past(id, node.deadline);
        _convict(id, Fault.MISSED, node.requester, claim.subject, claim.subjectId, claim.provider);
    }

    function close(Claim calldata claim) external nonReentrant {
        (bytes32 id, Dispute storage record) = _opened(claim);
        _past(id, record.endAt);
        // INVARIANT: silence is no defence, whoever was slow to say so
        if (record.unanswered != 0) revert Unanswered(id, record.unanswered);
        uint256 prepaid = record.prepaid;
        uint256 paid = prepaid * 9 / 10;
        (record.state, record.prepaid) = (DisputeState.NOT_GUILTY, 0);
        emit RepliesPaid(id, claim.provider, paid, prepaid - paid);
        emit DisputeResolved(claim.subject, claim.subjectId, claim.provider, false);
        _pay(claim.provider, paid);
        _pay(BURNT, prepaid - paid);
        claim.subject.resolve(claim.subjectId, claim.provider, false, address(0), address(0));
    }

    function expire(bytes32 id) external nonReentrant {
        Dispute storage record = _openRecord(id);
        _past(id, record.endAt + EXPIRY_WINDOW);
        record.state = DisputeState.EXPIRED;
        emit DisputeExpired(id);
    }

    function refund(bytes32 id, address payer) external nonReentrant {
        Dispute storage record = _disputes[id];
        // INVARIANT: a prepayment comes back once, and only where its reply did not clear the provider
        if (record.state != DisputeState.EXPIRED) _need(id, record, DisputeState.GUILTY);
        uint256 amount = prepaidBy[id][payer];
        if (amount == 0) revert NothingToRefund(id, payer);
        delete prepaidBy[id][payer];
        record.prepaid -= uint104(amount); // it is a part of it
        emit PrepaymentRefunded(id, payer, amount);
        _pay(payer, amount);
    }

    // -------------------------------------------------------------------------------------------------- views

    function canJudge(Model calldata model, Request calldata request_) external view returns (bool) {
        IJudge known = IJudge(judge);
        return known.acceptsTables(model.programRoot, model.tablesRoot) && ClaimRules.hasStep(request_)
            && ClaimRules.fits(request_, known.shapeOf(model.programRoot).context);
    }

    function disputeIdOf(ISubject subject, bytes32 subjectId, address provider) public pure returns (bytes32) {
        return keccak256(abi.encode(subject, subjectId, provider));
    }

    function disputes(bytes32 id) external view returns (DisputeView memory) {
        Dispute storage record = _disputes[id];
        return DisputeView({
            state: record.state,
            endAt: record.endAt,
            unanswered: record.unanswered,
            prepaid: record.prepaid,
            claimHash: record.claimHash,
            root: _node(id, 0, 0).hash
        });
    }

    function nodes(bytes32 id, uint256 depth, uint256 index) external view returns (NodeView memory) {
        Node storage node = _node(id, depth, index);
        return NodeView({
            requester: node.requester,
            deadline: node.deadline,
            answered: node.answered,
            levels: node.levels,
            payloadBytes: node.payloadBytes,
            hash: node.hash
        });
    }

    // ------------------------------------------------------------------------------------------ private: opening

    /// @dev Takes the place of the dispute before the subject is called.
    function _freeze(ISubject subject, bytes32 subjectId, address provider, bytes memory evidence)
        private
        returns (bytes32 id, Frozen memory frozen)
    {
        id = disputeIdOf(subject, subjectId, provider);
        // INVARIANT: an answer is disputed once; whoever else doubts it joins
        if (_disputes[id].state != DisputeState.NONE) revert AlreadyDisputed(id);
        _disputes[id].state = DisputeState.OPEN;
        frozen = subject.freeze(subjectId, provider, evidence);
    }

    function _shape(Model calldata model) private view returns (Shape memory) {
        // INVARIANT: only programs that can be executed again are judged
        if (!IJudge(judge).implementsProgram(model.programRoot)) revert ProgramNotAccepted(model.programRoot);
        if (!IJudge(judge).acceptsTables(model.programRoot, model.tablesRoot)) {
            revert TablesNotAccepted(model.tablesRoot);
        }
        return IJudge(judge).shapeOf(model.programRoot);
    }

    function _open(bytes32 id, DisputeParams calldata params, Frozen memory frozen) private {
        _checkEnd(frozen.disputeEnd);
        Claim memory claim = ClaimRules.claimOf(params, frozen.seed);
        uint256 rounds = IJudge(judge).rounds(claim) + 1; // and the payload's
        if (rounds > MAX_ROUNDS) revert TooManyRounds(rounds, MAX_ROUNDS);
        (uint256 levels,,) = IJudge(judge).nodeAt(claim, 0, 0);

        Dispute storage record = _disputes[id];
        record.claimHash = keccak256(abi.encode(claim));
        record.endAt = uint40(frozen.disputeEnd + (2 * rounds + 3) * replyWindow);
        record.unanswered = 1;
        uint64 deadline = uint64(block.timestamp) + replyWindow;
        _write(_node(id, 0, 0), deadline, levels, 0);
        emit Disputed(id, msg.sender, claim, record.endAt, deadline, params.inputIds, params.outputIds);
        _prepay(id, record, rootFee, params.permit);
    }

    function _checkEnd(uint256 disputeEnd) private view {
        uint256 latest = block.timestamp + MAX_DISPUTE_WINDOW;
        // INVARIANT: everybody has the subject's whole window to join, and the dispute ends
        if (disputeEnd < block.timestamp || disputeEnd > latest) {
            revert DisputeEndOutOfRange(disputeEnd, block.timestamp, latest);
        }
    }

    // ------------------------------------------------------------------------------------------- private: nodes

    /// @dev A node is kept under its number from the root down, row by row.
    function _node(bytes32 id, uint256 depth, uint256 index) private view returns (Node storage) {
        // INVARIANT: no two places share a record
        if (depth > MAX_DEPTH || index >> depth != 0) revert NoSuchPlace(id, depth, index);
        return _nodes[id][1 << depth | index];
    }

    function _write(Node storage node, uint64 deadline, uint256 levels, uint256 payloadBytes) private {
        node.requester = msg.sender;
        node.deadline = uint40(deadline);
        node.levels = uint8(levels);
        node.payloadBytes = uint24(payloadBytes);
    }

    function _place(Node storage node, bytes32 id, Claim calldata claim, NodePath calldata wanted) private {
        (uint256 levels, uint256 payloadBytes, bool inside) = IJudge(judge).nodeAt(claim, wanted.depth, wanted.index);
        // INVARIANT: only what an honest provider has is asked for
        if (!inside) revert NodeOutside(id, wanted.depth, wanted.index);
        uint64 deadline = uint64(block.timestamp) + replyWindow;
        _write(node, deadline, levels, payloadBytes);
        node.hash = wanted.hash;
        emit NodeRequested(id, msg.sender, wanted.depth, wanted.index, wanted.hash, uint8(levels), deadline);
    }

    /// @return requester of the answered node that the path leads to
    function _checkPath(bytes32 id, NodePath calldata node) private view returns (address requester) {
        uint256 up = node.path.length;
        if (up == 0 || up > node.depth) revert NotAnswered(id, node.depth, node.index);
        Node storage above = _node(id, node.depth - up, node.index >> up);
        // INVARIANT: what is asked for follows from what the provider said
        if (!above.answered) revert NotAnswered(id, node.depth - up, node.index >> up);
        bytes32 got = Openings.fold(node.hash, node.index, node.path);
        if (got != above.hash) revert BadPath(id, above.hash, got);
        return above.requester;
    }

    function _pending(bytes32 id, uint256 depth, uint256 index) private view returns (Node storage node) {
        node = _node(id, depth, index);
        if (node.requester == address(0)) revert NotRequested(id, depth, index);
        // INVARIANT: a request is answered once
        if (node.answered) revert AlreadyAnswered(id, depth, index);
    }

    function _due(bytes32 id, uint256 depth, uint256 index) private view returns (Node storage node) {
        node = _pending(id, depth, index);
        // INVARIANT: a late reply is none
        _notAfter(id, node.deadline);
    }

    function _folded(bytes32 id, Node storage node, bytes32[] calldata hashes) private view returns (bytes32) {
        uint256 count = 1 << node.levels;
        // INVARIANT: a reply shows every level that it must, and no leaf passes for a node
        if (count == 1 || hashes.length != count) revert BadReplyLength(id, count, hashes.length);
        return Fold.level(hashes);
    }

    function _answered(Dispute storage record, Node storage node) private {
        node.answered = true;
        --record.unanswered;
    }

    /// @dev Who asked for the leaf and got it, else who opened the dispute. The leaf's place is the judge's word:
    /// INVARIANT: who paid for the leaf that decides is not passed over, nor is one paid who asked for its equal elsewhere
    function _requesterOf(bytes32 id, uint256 depth, uint256 index) private view returns (address) {
        Node storage leaf = _node(id, depth, index);
        return leaf.answered ? leaf.requester : _node(id, 0, 0).requester;
    }

    // ------------------------------------------------------------------------------------------ private: records

    function _opened(Claim calldata claim) private view returns (bytes32 id, Dispute storage record) {
        id = disputeIdOf(claim.subject, claim.subjectId, claim.provider);
        record = _openRecord(id);
        bytes32 got = keccak256(abi.encode(claim));
        // INVARIANT: nothing is judged but what was claimed
        if (got != record.claimHash) revert ClaimMismatch(id, record.claimHash, got);
    }

    function _provable(Claim calldata claim) private view returns (bytes32 id, bytes32 root) {
        Dispute storage record;
        (id, record) = _opened(claim);
        _notAfter(id, record.endAt);
        Node storage node = _node(id, 0, 0);
        // INVARIANT: nothing is proved against a provider that has not spoken
        if (!node.answered) revert NotAnswered(id, 0, 0);
        root = node.hash;
    }

    function _openRecord(bytes32 id) private view returns (Dispute storage record) {
        record = _disputes[id];
        _need(id, record, DisputeState.OPEN);
    }

    function _need(bytes32 id, Dispute storage record, DisputeState needs) private view {
        // INVARIANT: a dispute moves along its states and never back
        if (record.state != needs) revert WrongDisputeState(id, record.state, needs);
    }

    function _notAfter(bytes32 id, uint256 deadline) private view {
        if (block.timestamp > deadline) revert PastDeadline(id, block.timestamp, deadline);
    }

    function _past(bytes32 id, uint256 deadline) private view {
        if (block.timestamp <= deadline) revert NotYet(id, block.timestamp, deadline + 1);
    }

    // -------------------------------------------------------------------------------------------- private: money

    function _prepay(bytes32 id, Dispute storage record, uint96 fee, bytes calldata permit) private {
        // INVARIANT: no liar is safe because its vault takes no money in any more
        if (IVault(vault).isDeprecated()) return;
        record.prepaid += fee;
        prepaidBy[id][msg.sender] += fee;
        IVault(vault).fund(stakeToken, msg.sender, fee, permit);
    }

    /// @dev Whoever calls is the prover.
    function _convict(bytes32 id, Fault fault, address requester, ISubject subject, bytes32 subjectId, address provider)
        private
    {
        // INVARIANT: a dispute is decided once, and its prepayments go back to who paid them
        _disputes[id].state = DisputeState.GUILTY;
        emit FaultFound(id, fault, requester, msg.sender);
        emit DisputeResolved(subject, subjectId, provider, true);
        subject.resolve(subjectId, provider, true, requester, msg.sender);
    }

    function _pay(address to, uint256 amount) private {
        if (amount != 0) IVault(vault).pay(stakeToken, to, amount);
    }
}
