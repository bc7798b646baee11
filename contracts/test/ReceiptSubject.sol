// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Frozen, ISubject} from "../interfaces/ISubject.sol";
import {IVault} from "../interfaces/IVault.sol";
import {Output, Receipt, Request} from "../interfaces/Wire.sol";
import {Payout} from "../libraries/Payout.sol";
import {WireHash} from "../libraries/WireHash.sol";

/// @dev What a session will be to the arbiter: a provider locks one bond and signs receipts off chain; each of them can be
/// disputed, under its EIP-712 digest, by whoever has it. Evidence = abi.encode(Request) ‖ abi.encode(Receipt, signature).
contract ReceiptSubject is ISubject, EIP712 {
    struct Session {
        address client;
        address provider;
        uint128 bond; // 0 once it is lost or returned
        uint64 disputeEnd;
        uint32 disputed; // receipts whose dispute is open
    }

    uint256 private constant REQUEST_BYTES = 11 * 32;
    uint256 private constant SHARE_BPS = 3000;
    uint256 private constant RESOLVE_WINDOW = 7 days;
    address private constant BURNT = address(0xdead);

    error NotArbiter();
    error BadReceipt();
    error NotFrozen();
    error NotNow();

    address public immutable vault;
    address public immutable stakeToken;
    address public immutable arbiter;
    mapping(bytes32 sessionId => Session) public sessions;
    mapping(bytes32 receiptId => Receipt) private _frozen;

    constructor(address vault_, address arbiter_) EIP712("Assay Receipts", "1") {
        (vault, arbiter) = (vault_, arbiter_);
        stakeToken = IVault(vault_).stakeToken();
    }

    function open(bytes32 sessionId, address client, uint128 bond, uint64 disputeEnd) external {
        require(sessions[sessionId].provider == address(0) && bond != 0);
        sessions[sessionId] = Session(client, msg.sender, bond, disputeEnd, 0);
        IVault(vault).bond(msg.sender, bond);
    }

    function release(bytes32 sessionId) external {
        Session storage session = sessions[sessionId];
        uint256 end = session.disputeEnd + (session.disputed == 0 ? 0 : RESOLVE_WINDOW);
        if (block.timestamp <= end || session.bond == 0) revert NotNow();
        uint256 bond = session.bond;
        session.bond = 0;
        IVault(vault).unbond(session.provider, bond);
    }

    function freeze(bytes32 receiptId, address provider, bytes calldata evidence) external returns (Frozen memory) {
        if (msg.sender != arbiter) revert NotArbiter();
        Request memory request = abi.decode(evidence[:REQUEST_BYTES], (Request));
        (Receipt memory receipt, bytes memory signature) = abi.decode(evidence[REQUEST_BYTES:], (Receipt, bytes));
        if (_signed(provider, receipt, signature) != receiptId) revert BadReceipt();
        Session storage session = sessions[receipt.subjectId];
        if (session.bond == 0 || block.timestamp > session.disputeEnd) revert NotNow();
        _frozen[receiptId] = receipt;
        ++session.disputed;
        return Frozen({
            modelId: request.modelId,
            requestHash: receipt.requestHash,
            outputHash: _outputHash(receipt),
            bond: session.bond,
            disputeEnd: session.disputeEnd,
            seed: 0 // its requests are greedy or carry their seed
        });
    }

    function resolve(bytes32 receiptId, address provider, bool guilty, address requester, address prover) external {
        if (msg.sender != arbiter) revert NotArbiter();
        Receipt memory receipt = _frozen[receiptId];
        Session storage session = sessions[receipt.subjectId];
        if (session.provider != provider || session.disputed == 0) revert NotFrozen();
        --session.disputed;
        uint256 bond = session.bond;
        // Another receipt may have cost it already.
        if (!guilty || bond == 0) return;
        session.bond = 0;
        uint256 refund = receipt.charged < bond ? receipt.charged : bond;
        (uint256 reward, uint256 burnt) = Payout.slash(bond, refund, SHARE_BPS);
        IVault(vault).forfeit(provider, bond);
        _pay(session.client, refund);
        _pay(requester, reward / 2);
        _pay(prover, reward - reward / 2);
        _pay(BURNT, burnt);
    }

    /// @param evidence abi.encode(Receipt, signature)
    function contradicts(bytes32 receiptId, address provider, bytes calldata evidence) external view returns (bool) {
        (Receipt memory other, bytes memory signature) = abi.decode(evidence, (Receipt, bytes));
        Receipt memory receipt = _frozen[receiptId];
        _signed(provider, other, signature);
        return other.subjectId == receipt.subjectId && other.index == receipt.index
            && other.requestHash == receipt.requestHash && _outputHash(other) != _outputHash(receipt);
    }

    function hashReceipt(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(WireHash.receiptInMemory(receipt));
    }

    function _signed(address provider, Receipt memory receipt, bytes memory signature)
        private
        view
        returns (bytes32 digest)
    {
        digest = _hashTypedDataV4(WireHash.receiptInMemory(receipt));
        if (provider != sessions[receipt.subjectId].provider) revert BadReceipt();
        if (!SignatureChecker.isValidSignatureNow(provider, digest, signature)) revert BadReceipt();
    }

    function _outputHash(Receipt memory receipt) private pure returns (bytes32) {
        return WireHash.outputInMemory(Output(receipt.outputRoot, receipt.outputTokens, receipt.finish));
    }

    function _pay(address to, uint256 amount) private {
        if (amount != 0) IVault(vault).pay(stakeToken, to, amount);
    }
}
