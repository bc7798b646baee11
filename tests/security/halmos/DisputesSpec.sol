// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Disputes} from "../../../contracts/Disputes.sol";
import {DisputeState, NodePath} from "../../../contracts/interfaces/IDisputes.sol";
import {ISubject} from "../../../contracts/interfaces/ISubject.sol";
import {Claim} from "../../../contracts/interfaces/Trace.sol";
import {MoneyVault} from "./MoneyVault.sol";
import {Spec} from "./Spec.sol";

/// @dev Says of every node whatever the specification wants.
contract AnyJudge {
    uint256 public levels;
    uint256 public payloadBytes;
    bool public inside;

    function nodeAt(Claim calldata, uint256, uint256) external view returns (uint256, uint256, bool) {
        return (levels, payloadBytes, inside);
    }
}

/// @dev Takes every verdict.
contract AnySubject {
    uint256 public verdicts;
    bool public guilty;

    function resolve(bytes32, address, bool guilty_, address, address) external {
        (guilty, verdicts) = (guilty_, verdicts + 1);
    }
}

/// @dev Prepayments, function by function, from any state whatever (the storage is symbolic). Together: what a dispute
/// holds grows by exactly what its callers pay in, it falls by exactly what is paid out, and so never more is paid out of
/// a dispute than was paid into it, nor of one dispute what was paid into another: `otherId` is any other dispute.
contract DisputesSpec is Spec {
    uint96 internal constant ROOT_FEE = 700;
    uint96 internal constant REQUEST_FEE = 500;
    address internal constant BURNT = address(0xdead);

    /// @dev What two disputes hold, and one payer's part of the first.
    struct Prepaid {
        uint256 held;
        uint256 ofPayer;
        uint256 ofOther; // of the same payer in the other dispute
        uint256 heldByOther;
        DisputeState state;
    }

    MoneyVault internal vault;
    AnyJudge internal judge;
    AnySubject internal subject;
    Disputes internal disputes;

    function setUp() public {
        vault = new MoneyVault();
        judge = new AnyJudge();
        subject = new AnySubject();
        disputes = new Disputes(address(vault), address(judge), 60, ROOT_FEE, REQUEST_FEE);
        svm.enableSymbolicStorage(address(disputes));
        svm.enableSymbolicStorage(address(judge));
        vault.setDeprecated(svm.createBytes32("deprecated") != 0);
        _anyTime();
    }

    /// @dev Of node (2, 3) below any answered one: which node it is has nothing to do with money.
    function check_requestPaysInWhatIsCounted(
        address caller,
        Claim memory claim,
        bytes32 hash,
        bytes32 side,
        bytes32 otherId
    ) public {
        claim.subject = ISubject(address(subject));
        bytes32 id = _idOf(claim);
        vm.assume(otherId != id);
        NodePath memory node = NodePath(2, 3, hash, new bytes32[](1));
        node.path[0] = side;
        Prepaid memory a = _prepaid(id, otherId, caller);
        vm.prank(caller);
        disputes.request(claim, node, "");
        Prepaid memory b = _prepaid(id, otherId, caller);
        uint256 paid = vault.isDeprecated() ? 0 : REQUEST_FEE;
        assert(a.state == DisputeState.OPEN && b.state == a.state);
        assert(b.held == a.held + paid && b.ofPayer == a.ofPayer + paid);
        assert(b.ofOther == a.ofOther && b.heldByOther == a.heldByOther);
        assert(vault.paidIn() == paid && vault.paidOut() == 0);
        assert(paid == 0 || vault.payer() == caller);
    }

    /// @dev And only of a dispute that its provider lost or that expired, and once. That a payer's part is no more than
    /// the whole is what the specification of `request` keeps true: both grow by the same.
    function check_refundPaysBackWhatWasPaidIn(
        address caller,
        bytes32 id,
        address payer,
        bytes32 otherId,
        address other
    ) public {
        vm.assume(otherId != id && other != payer);
        Prepaid memory a = _prepaid(id, otherId, payer);
        vm.assume(a.ofPayer <= a.held);
        uint256 ofOtherPayer = disputes.prepaidBy(id, other);
        vm.prank(caller);
        disputes.refund(id, payer);
        Prepaid memory b = _prepaid(id, otherId, payer);
        assert(a.state == DisputeState.GUILTY || a.state == DisputeState.EXPIRED);
        assert(b.state == a.state && a.ofPayer != 0 && b.ofPayer == 0);
        assert(b.held == a.held - a.ofPayer);
        assert(vault.paidOut() == a.ofPayer && vault.paidTo(payer) == a.ofPayer && vault.paidIn() == 0);
        assert(b.ofOther == a.ofOther && b.heldByOther == a.heldByOther);
        assert(disputes.prepaidBy(id, other) == ofOtherPayer);
        vm.prank(caller);
        (bool again,) = address(disputes).call(abi.encodeCall(disputes.refund, (id, payer)));
        assert(!again);
    }

    /// @dev A dispute that clears its provider pays out everything, once, and gives nothing back afterwards.
    function check_closePaysOutWhatIsHeld(address caller, Claim memory claim, address payer, bytes32 otherId) public {
        claim.subject = ISubject(address(subject));
        bytes32 id = _idOf(claim);
        vm.assume(otherId != id && claim.provider != BURNT);
        Prepaid memory a = _prepaid(id, otherId, payer);
        vm.prank(caller);
        disputes.close(claim);
        Prepaid memory b = _prepaid(id, otherId, payer);
        assert(a.state == DisputeState.OPEN && b.state == DisputeState.NOT_GUILTY && b.held == 0);
        assert(vault.paidOut() == a.held && vault.paidIn() == 0);
        assert(vault.paidTo(claim.provider) == a.held * 9 / 10);
        assert(vault.paidTo(claim.provider) + vault.paidTo(BURNT) == a.held);
        assert(b.heldByOther == a.heldByOther && b.ofOther == a.ofOther);
        assert(subject.verdicts() == 1 && !subject.guilty());
        vm.prank(caller);
        (bool refunded,) = address(disputes).call(abi.encodeCall(disputes.refund, (id, payer)));
        assert(!refunded);
    }

    function check_missedMovesNoMoney(address caller, Claim memory claim, address payer, bytes32 otherId) public {
        claim.subject = ISubject(address(subject));
        bytes32 id = _idOf(claim);
        Prepaid memory a = _prepaid(id, otherId, payer);
        vm.prank(caller);
        disputes.missed(claim, 0, 0);
        Prepaid memory b = _prepaid(id, otherId, payer);
        assert(a.state == DisputeState.OPEN && b.state == DisputeState.GUILTY);
        assert(subject.verdicts() == 1 && subject.guilty());
        _untouched(a, b);
    }

    function check_expireMovesNoMoney(address caller, bytes32 id, address payer, bytes32 otherId) public {
        Prepaid memory a = _prepaid(id, otherId, payer);
        vm.prank(caller);
        disputes.expire(id);
        Prepaid memory b = _prepaid(id, otherId, payer);
        assert(a.state == DisputeState.OPEN && b.state == DisputeState.EXPIRED);
        _untouched(a, b);
    }

    /// @dev Two hashes of an inner node one level above them.
    function check_answerHashesMovesNoMoney(
        address caller,
        bytes32 id,
        uint256 index,
        bytes32[2] memory given,
        address payer,
        bytes32 otherId
    ) public {
        bytes32[] memory hashes = new bytes32[](2);
        (hashes[0], hashes[1]) = (given[0], given[1]);
        Prepaid memory a = _prepaid(id, otherId, payer);
        vm.prank(caller);
        disputes.answerHashes(id, 2, index, hashes);
        Prepaid memory b = _prepaid(id, otherId, payer);
        assert(b.state == a.state);
        _untouched(a, b);
    }

    function check_onlyTheProviderGivesTheRoot(address caller, Claim memory claim, bytes32[2] memory given) public {
        bytes32[] memory hashes = new bytes32[](2);
        (hashes[0], hashes[1]) = (given[0], given[1]);
        vm.prank(caller);
        disputes.answerRoot(claim, hashes);
        assert(caller == claim.provider && vault.calls() == 0);
        assert(disputes.nodes(_idOf(claim), 0, 0).answered);
    }

    function _untouched(Prepaid memory a, Prepaid memory b) private view {
        assert(b.held == a.held && b.ofPayer == a.ofPayer);
        assert(b.heldByOther == a.heldByOther && b.ofOther == a.ofOther);
        assert(vault.calls() == 0);
    }

    function _idOf(Claim memory claim) private view returns (bytes32) {
        return disputes.disputeIdOf(claim.subject, claim.subjectId, claim.provider);
    }

    function _prepaid(bytes32 id, bytes32 otherId, address payer) private view returns (Prepaid memory found) {
        (found.held, found.state) = (disputes.disputes(id).prepaid, disputes.disputes(id).state);
        found.ofPayer = disputes.prepaidBy(id, payer);
        found.ofOther = disputes.prepaidBy(otherId, payer);
        found.heldByOther = disputes.disputes(otherId).prepaid;
    }
}
