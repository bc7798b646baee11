// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Jobs} from "../../../contracts/Jobs.sol";
import {Quote} from "../../../contracts/interfaces/Wire.sol";
import {Spec} from "./Spec.sol";

/// @dev As much of a vault as the constructor of Jobs asks for.
contract VaultStub {
    uint256 public constant unbondingWindow = 365 days;
    address public constant stakeToken = address(0x7070);
}

/// @dev A digest stands for one chain, one contract and one value of every field: equal digests, equal everything.
/// (keccak256 without collisions, as halmos models it.)
contract SignatureSpec is Spec {
    Jobs internal jobs;
    Jobs internal other;

    address internal vault;

    function setUp() public {
        vault = address(new VaultStub());
        jobs = _jobs(vault, address(0));
        other = _jobs(vault, address(0));
    }

    function _jobs(address vault_, address arbiter) private returns (Jobs) {
        return new Jobs(vault_, address(0x4E6), arbiter, 1 days, 2_000, 1 hours, 700);
    }

    function check_quoteBindsEveryField(Quote calldata a, Quote calldata b) public view {
        vm.assume(jobs.hashQuote(a) == jobs.hashQuote(b));
        assert(a.provider == b.provider && a.client == b.client && a.modelId == b.modelId);
        assert(a.requestHash == b.requestHash && a.mode == b.mode && a.token == b.token);
        assert(a.baseFee == b.baseFee && a.pricePerMInput == b.pricePerMInput);
        assert(a.pricePerMOutput == b.pricePerMOutput && a.killFee == b.killFee && a.missFee == b.missFee);
        assert(a.bond == b.bond && a.maxInputTokens == b.maxInputTokens && a.maxOutputTokens == b.maxOutputTokens);
        assert(a.validUntil == b.validUntil && a.nonce == b.nonce);
    }

    function check_quoteBindsTheContract(Quote calldata a, Quote calldata b) public view {
        assert(jobs.hashQuote(a) != other.hashQuote(b));
    }

    /// @dev Deployed on one chain and asked on another, as after a fork of the chain: the cached domain does not stand.
    function check_quoteBindsTheChain(Quote calldata a, Quote calldata b, uint64 one, uint64 two) public {
        vm.assume(one != two);
        vm.chainId(one);
        Jobs deployed = _jobs(vault, address(0));
        bytes32 here = deployed.hashQuote(a);
        vm.chainId(two);
        assert(deployed.hashQuote(b) != here);
    }

    function check_commitmentBindsEveryField(
        bytes32[2] memory job,
        address[2] memory provider,
        bytes32[2] memory output,
        bytes32[2] memory salt
    ) public view {
        vm.assume(
            jobs.hashCommitment(job[0], provider[0], output[0], salt[0])
                == jobs.hashCommitment(job[1], provider[1], output[1], salt[1])
        );
        assert(job[0] == job[1] && provider[0] == provider[1] && output[0] == output[1] && salt[0] == salt[1]);
    }

    function check_commitmentBindsTheContractAndTheChain(
        bytes32 job,
        address provider,
        bytes32 output,
        bytes32 salt,
        uint64 one,
        uint64 two
    ) public {
        assert(
            jobs.hashCommitment(job, provider, output, salt) != other.hashCommitment(job, provider, output, salt)
        );
        vm.assume(one != two);
        vm.chainId(one);
        Jobs deployed = _jobs(vault, address(0));
        bytes32 here = deployed.hashCommitment(job, provider, output, salt);
        vm.chainId(two);
        assert(deployed.hashCommitment(job, provider, output, salt) != here);
    }

    function check_commitmentIsNoQuote(Quote calldata quote, bytes32 job, address provider, bytes32 output, bytes32 salt)
        public
        view
    {
        assert(jobs.hashQuote(quote) != jobs.hashCommitment(job, provider, output, salt));
    }

    function check_jobIdBindsClientNonceContractAndChain(address client, uint256 nonce, address client2, uint256 nonce2)
        public
        view
    {
        assert(jobs.jobIdOf(client, nonce) != other.jobIdOf(client2, nonce2));
        vm.assume(jobs.jobIdOf(client, nonce) == jobs.jobIdOf(client2, nonce2));
        assert(client == client2 && nonce == nonce2);
    }
}
