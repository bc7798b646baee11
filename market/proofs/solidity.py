"""The generated verifier made into bytecode, by whatever Solidity compiler is at hand."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from market.errors import ConfigError
from market.proofs.errors import NotProvable

CONTRACT = "Halo2Verifier"
SETTINGS = {
    "evmVersion": "cancun",
    "optimizer": {"enabled": True, "runs": 200},
    # no metadata: the code, and so the modelId, is that of the verifier alone
    "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
    "outputSelection": {"*": {"*": ["evm.bytecode.object", "evm.deployedBytecode.object"]}},
}
CODE_LIMIT = 24_576
"""EIP-170."""


@dataclass(frozen=True)
class VerifierCode:
    """Creation and runtime code, and the version of the compiler that made them."""

    creation: bytes
    runtime: bytes
    compiler: str


def compile_verifier(source: Path, solc: Path) -> VerifierCode:
    """Compiles verifier.sol.

    Args:
        solc: an executable that takes --standard-json and --version.
    Raises:
        ConfigError: code NoCompiler or CompilationFailed. NotProvable: code VerifierTooLarge, EIP-170.
    """
    document = {
        "language": "Solidity",
        "sources": {source.name: {"content": source.read_text(encoding="utf-8")}},
        "settings": SETTINGS,
    }
    try:
        told = subprocess.run(
            [str(solc), "--standard-json"], input=json.dumps(document), capture_output=True, text=True, timeout=300
        )
        version = subprocess.run([str(solc), "--version"], capture_output=True, text=True, timeout=60).stdout
    except OSError:
        raise ConfigError(
            f"There is no Solidity compiler at {solc}.",
            hint="Name one with --solc; a checkout has tools/solc after `make setup-dev`.",
            code="NoCompiler",
        ) from None
    try:
        output = json.loads(told.stdout)
        code = output["contracts"][source.name][CONTRACT]["evm"]
        made = bytes.fromhex(code["bytecode"]["object"]), bytes.fromhex(code["deployedBytecode"]["object"])
    except (ValueError, KeyError):
        raise ConfigError(
            f"{solc} did not compile the verifier: {(told.stderr or told.stdout)[:300]}", code="CompilationFailed"
        ) from None
    if len(made[1]) > CODE_LIMIT:
        raise NotProvable(
            f"The verifier has {len(made[1]):,} bytes; a contract may have {CODE_LIMIT:,}.",
            hint="Set the model up with fewer --columns, or use one with fewer kinds of operations.",
            code="VerifierTooLarge",
        )
    return VerifierCode(*made, version.strip().splitlines()[-1] if version else "unknown")
