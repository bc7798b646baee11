// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {JobState, ReplicaState} from "../interfaces/IJobs.sol";
import {Replica, Terms} from "./JobRecords.sol";

/// @dev Who gets what when a job becomes final. Base units of the stake token.
struct Split {
    uint256[] paid; // per replica, out of the escrow
    uint256[] missFee; // per replica, out of its bond
    uint256[] returned; // per replica, bond that goes back to its stake at once
    uint256 totalPaid;
    uint256 refunded; // escrow that goes back to the client
    uint256 missFees;
    uint256 missShare; // of the miss fees, to each replica that revealed in time
    uint256 burnt; // of the miss fees, what cannot be shared
}

/// @title The arithmetic of money: pure, and equal to market/settlement.py to the unit
/// @dev Products are at most 2^128 · 2^32, so nothing overflows 256 bits.
library Payout {
    uint256 internal constant MILLION = 1_000_000;
    uint256 internal constant BPS = 10_000;
    uint256 internal constant DEMAND_FEE_TOKENS = 512;

    function price(Terms memory terms, uint256 inputTokens, uint256 outputTokens) internal pure returns (uint256) {
        return terms.baseFee
            + Math.ceilDiv(inputTokens * terms.pricePerMInput + outputTokens * terms.pricePerMOutput, MILLION);
    }

    /// @dev Never more than the price of the same work.
    function killFee(Terms memory terms, uint256 inputTokens, uint256 outputTokens) internal pure returns (uint256) {
        return Math.min(terms.killFee, price(terms, inputTokens, outputTokens));
    }

    /// @return what a bond must be, so that after the challenger's share it still covers `price_`
    function bondFor(uint256 price_, uint256 shareBps) internal pure returns (uint256) {
        return Math.ceilDiv(price_ * BPS, BPS - shareBps);
    }

    function escrow(Replica[] memory replicas, uint256 inputTokens, uint256 maxOutputTokens)
        internal
        pure
        returns (uint256 sum)
    {
        for (uint256 i; i < replicas.length; ++i) {
            sum += price(replicas[i].terms, inputTokens, maxOutputTokens);
        }
    }

    /// @notice What a client pays whose job lapses before anybody was drawn: what a cancelled one would have cost.
    function drawFee(Replica[] memory replicas, uint256 inputTokens, uint256 maxOutputTokens)
        internal
        pure
        returns (uint256 sum)
    {
        for (uint256 i; i < replicas.length; ++i) {
            sum += killFee(replicas[i].terms, inputTokens, maxOutputTokens);
        }
    }

    /// @notice What demanding an output costs: `fee` for every DEMAND_FEE_TOKENS tokens that it has or has begun.
    function demandFee(uint256 fee, uint256 outputTokens) internal pure returns (uint256) {
        return fee * Math.ceilDiv(outputTokens, DEMAND_FEE_TOKENS);
    }

    /// @notice What one replica gets out of the escrow of a job in `state`; 0 while that is not final.
    function payment(
        Replica memory replica,
        JobState state,
        bytes32 agreed,
        uint256 inputTokens,
        uint256 maxOutputTokens
    ) internal pure returns (uint256) {
        if (state == JobState.SETTLED) {
            // INVARIANT: an output is paid only where it is the agreed one
            if (replica.state == ReplicaState.REVEALED && replica.digest == agreed) {
                return price(replica.terms, inputTokens, replica.outputTokens);
            }
            if (replica.state == ReplicaState.LATE) return killFee(replica.terms, inputTokens, replica.outputTokens);
        } else if (state == JobState.CANCELLED) {
            return killFee(replica.terms, inputTokens, maxOutputTokens);
        } else if (state == JobState.EXPIRED && replica.state == ReplicaState.COMMITTED) {
            // Committed for nothing: too few others did. Whoever was silent later is MISSED instead.
            return killFee(replica.terms, inputTokens, maxOutputTokens);
        }
        return 0;
    }

    /// @notice Divides escrow and miss fees of a job whose final state is `state`.
    /// INVARIANT: Σ paid + refunded = escrow, and missShare · revealed + burnt = Σ missFee
    function split(
        Replica[] memory replicas,
        JobState state,
        bytes32 agreed,
        uint256 inputTokens,
        uint256 maxOutputTokens
    ) internal pure returns (Split memory result) {
        result.paid = new uint256[](replicas.length);
        result.missFee = new uint256[](replicas.length);
        result.returned = new uint256[](replicas.length);
        uint256 revealed;
        for (uint256 i; i < replicas.length; ++i) {
            Replica memory replica = replicas[i];
            result.paid[i] = payment(replica, state, agreed, inputTokens, maxOutputTokens);
            result.totalPaid += result.paid[i];
            if (replica.state == ReplicaState.REVEALED) ++revealed;
            if (replica.state == ReplicaState.COMMITTED) result.returned[i] = replica.terms.bond;
            if (replica.state == ReplicaState.MISSED) {
                result.missFee[i] = replica.terms.missFee;
                result.returned[i] = replica.terms.bond - replica.terms.missFee;
                result.missFees += replica.terms.missFee;
            }
        }
        result.refunded = escrow(replicas, inputTokens, maxOutputTokens) - result.totalPaid;
        result.missShare = revealed == 0 ? 0 : result.missFees / revealed;
        result.burnt = result.missFees - result.missShare * revealed;
    }

    /// @notice Divides the bond of a replica that was proved wrong: the client's refund first, then the challenger,
    /// the rest burnt. At least half of what the client leaves is burnt, so that challenging oneself costs.
    function slash(uint256 bond, uint256 refund, uint256 shareBps)
        internal
        pure
        returns (uint256 reward, uint256 burnt)
    {
        reward = Math.min(bond * shareBps / BPS, (bond - refund) / 2);
        burnt = bond - refund - reward;
    }
}
