"""After all tests of this folder: every external function was called and every custom error was seen."""

from __future__ import annotations

from tests.unit.contracts.world import World

MARKET = ("Vault", "Registry", "Jobs")
SHIPPED = (*MARKET, "Disputes", "Judge", "EzklVerifier", "ProofJobs")
UNREACHABLE = {
    "AddressEmptyCode": "OpenZeppelin's Multicall: it calls itself, and has code",
    "FailedCall": "OpenZeppelin's Multicall: every refusal of ours has data",
    "InvalidShortString": "OpenZeppelin's EIP712: the name and version are short constants",
    "StringTooLong": "OpenZeppelin's EIP712: the name and version are short constants",
}


def test_every_external_function_was_called(deployed: World) -> None:
    wanted = {
        (name, entry["name"])
        for name in SHIPPED
        for entry in deployed.artefacts[name]["abi"]
        if entry["type"] == "function"
    }
    assert wanted - set(deployed.chain.coverage.functions) == set()


def test_every_custom_error_was_seen(deployed: World) -> None:
    wanted = {
        entry["name"] for name in SHIPPED for entry in deployed.artefacts[name]["abi"] if entry["type"] == "error"
    }
    assert wanted - set(deployed.chain.coverage.errors) == set(UNREACHABLE)
