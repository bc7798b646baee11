// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Accusation} from "../interfaces/Trace.sol";
import {Context, TraceTree} from "../libraries/TraceTree.sol";
import {Activation} from "../steps/Activation.sol";
import {Mix} from "../steps/Mix.sol";
import {MixSum} from "../steps/MixSum.sol";
import {QuantiseMix} from "../steps/QuantiseMix.sol";
import {Rotary} from "../steps/Rotary.sol";
import {Scores} from "../steps/Scores.sol";
import {Softmax} from "../steps/Softmax.sol";

/// @dev The steps of attention and activation as the judge calls them, for a claim whose shapes and roots are given.
contract StepsHarness {
    error NoStep(uint256 operation);

    /// @param context `claimed` is filled in here
    function isWrong(Context memory context, Accusation calldata accusation) external pure returns (bool) {
        bool ofPadding;
        (ofPadding, context.claimed) = TraceTree.accused(context, accusation);
        if (ofPadding) return context.claimed != 0;
        uint256 operation = accusation.operation;
        if (operation == TraceTree.ROTATE_QUERY) return Rotary.isWrong(context, accusation);
        if (operation == TraceTree.ROTATE_KEY) return Rotary.isWrong(context, accusation);
        if (operation == TraceTree.SCORES) return Scores.isWrong(context, accusation);
        if (operation == TraceTree.SOFTMAX) return Softmax.isWrong(context, accusation);
        if (operation == TraceTree.MIX_SUM) return MixSum.isWrong(context, accusation);
        if (operation == TraceTree.MIX) return Mix.isWrong(context, accusation);
        if (operation == TraceTree.QUANTISE_MIX) return QuantiseMix.isWrong(context, accusation);
        if (operation == TraceTree.ACTIVATION) return Activation.isWrong(context, accusation);
        revert NoStep(operation);
    }
}
