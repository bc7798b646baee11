"""A deployment compared with the chain and with the code that this installation ships.

The manifest's own hashes prove nothing about what the code does: here the runtime code is rebuilt from the shipped
artefacts, with this deployment's immutables and libraries in it, and must be what the chain has, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pydantic.alias_generators import to_camel

from market.chain import Chain
from market.contracts import Contract
from market.deployment import Contracts, Deployment, code_hash
from market.deployment_steps import creations, modules
from market.errors import ChainError, ChainUnreachable
from market.networks import Networks
from market.types import ZERO_ADDRESS

_NO_CODE = "no code"


@dataclass(frozen=True)
class Check:
    """One comparison. `code` names the error where it failed; a `note` says something and compares nothing.

    Attributes:
        what: in words.
        expected, found: as text.
    """

    what: str
    expected: str
    found: str
    code: str = ""
    note: bool = False

    @property
    def ok(self) -> bool:
        return self.note or self.expected == self.found

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "code": "" if self.ok else self.code}


def verify(chain: Chain, deployment: Deployment, networks: Networks) -> tuple[Check, ...]:
    """Every comparison, in the order of a report. Nothing is sent.

    Raises:
        ChainUnreachable: the chain could not be asked.
    """
    checks = [Check("chain id", str(deployment.chain_id), str(chain.chain_id), "WrongChain")]
    if not checks[0].ok:
        return tuple(checks)
    checks += _code(chain, deployment)
    contracts = Contracts.of(chain, deployment)
    checks += _wiring(deployment, contracts)
    checks += _parameters(deployment, contracts)
    checks += _declarations(chain, deployment, networks)
    return tuple(checks)


def _code(chain: Chain, deployment: Deployment) -> list[Check]:
    """The chain's code against the shipped code, and against the manifest."""
    checks: list[Check] = []
    steps = {step.name: step for step in creations(deployment.parameters)}
    for name, address in deployment.addresses.items():
        code = chain.code(address)
        found = code_hash(code) if code else _NO_CODE
        missing = "" if code else "CodeMissing"
        if name in steps:
            expected = code_hash(steps[name].runtime_code(deployment.plan, address))
            checks.append(Check(f"code of {name}, as shipped", expected, found, missing or "CodeMismatch"))
        elif name != "token":
            checks.append(Check(f"code of {name}, as shipped", "not part of this version", found, "UnknownContract"))
        else:
            checks.append(Check("token is a contract that Assay does not ship", "", address.lower(), note=True))
        hashed = deployment.code_hashes[name]
        checks.append(Check(f"code of {name}, as in the manifest", hashed, found, missing or "CodeMismatch"))
    absent = set(steps) - set(deployment.addresses)
    checks += [Check(f"address of {name}", "in the manifest", "missing", "CodeMissing") for name in sorted(absent)]
    return checks


def _wiring(deployment: Deployment, contracts: Contracts) -> list[Check]:
    vault, jobs, token, arbiter = contracts.vault, contracts.jobs, deployment.token, contracts.arbiter
    modules_ = ", ".join(modules(deployment.plan))
    return [
        _asked("vault is sealed", "yes", lambda: "yes" if vault.is_sealed() else "no", "NotSealed"),
        _asked("modules of the vault", modules_, lambda: _listed(vault.modules()), "WrongWiring"),
        _asked("tokens of the vault", token, lambda: _listed(vault.tokens()), "WrongWiring"),
        _asked("stake token of the vault", token, vault.stake_token, "WrongWiring"),
        _asked("vault of jobs", deployment.vault, jobs.vault, "WrongWiring"),
        _asked("stake token of jobs", token, jobs.stake_token, "WrongWiring"),
        _asked("registry of jobs", deployment.registry, jobs.registry, "WrongWiring"),
        _asked("arbiter of jobs", deployment.disputes, jobs.arbiter, "WrongWiring"),
        _asked("vault of disputes", deployment.vault, lambda: arbiter.address_of("vault"), "WrongWiring"),
        _asked("stake token of disputes", token, lambda: arbiter.address_of("stakeToken"), "WrongWiring"),
        _asked("judge of disputes", deployment.judge, lambda: arbiter.address_of("judge"), "WrongWiring"),
        _asked("vault of proofs", deployment.vault, contracts.proofs.vault, "WrongWiring"),
        _asked("stake token of proofs", token, contracts.proofs.stake_token, "WrongWiring"),
        _asked("verifier of proofs", deployment.verifier, contracts.proofs.verifier, "WrongWiring"),
        _asked("registry of the verifier", deployment.registry, contracts.verifier.registry, "WrongWiring"),
        _asked("vault of the registry", deployment.vault, contracts.registry.vault, "WrongWiring"),
    ]


def _parameters(deployment: Deployment, contracts: Contracts) -> list[Check]:
    """Each parameter against the getter of its name, in whichever contract has one."""
    guardian = deployment.guardian

    def found_guardian() -> str:
        found = contracts.vault.guardian()
        return guardian if found == ZERO_ADDRESS else found  # renounced: less power than the manifest says

    checks = [_asked("guardian (or none any more)", guardian, found_guardian, "WrongGuardian")]
    for name, chosen in vars(deployment.parameters).items():
        if name == "token":  # the vault's stake token, compared with the wiring
            continue
        getter = to_camel(name)
        contract, arguments = _owner(getter, deployment.token, contracts)
        ask = partial(_view, contract, getter, arguments)
        checks.append(_asked(name.replace("_", " "), str(chosen).lower(), ask, "WrongParameter"))
    deprecated = _asked("deprecated", "", lambda: "yes" if contracts.vault.is_deprecated() else "no", "", note=True)
    return [*checks, deprecated]


def _owner(getter: str, token: str, contracts: Contracts) -> tuple[Contract, tuple[str, ...]]:
    """The contract that has this getter, and its arguments: nothing, or the token."""
    for contract in (contracts.vault, contracts.registry, contracts.jobs, contracts.arbiter):
        if getter in contract.artefact.functions:
            return contract, (token,) if contract.artefact.function(getter).inputs else ()
    raise KeyError(getter)  # a test of the parameters rules it out


def _view(contract: Contract, getter: str, arguments: tuple[str, ...]) -> str:
    return str(contract.view(getter, *arguments)).lower()


def _declarations(chain: Chain, deployment: Deployment, networks: Networks) -> list[Check]:
    network = networks.of(deployment.chain_id)
    checks = [
        Check("randomness", network.random.source, deployment.randomness.source, "WrongRandomness"),
        Check("whom randomness trusts", "", network.random.bias, note=True),
    ]
    try:
        final = chain.block("finalized").number
        found = "yes" if final >= deployment.block else f"not yet: block {deployment.block}, final is {final}"
    except ChainError as error:
        if isinstance(error, ChainUnreachable):
            raise
        found = "this endpoint does not say"
    checks.append(Check("deployment is final", "", found, note=True))
    if deployment.successor is not None:
        where = f"{deployment.successor.vault} on chain {deployment.successor.chain_id}"
        checks.append(Check("successor", "", where, note=True))
    return checks


def _asked(what: str, expected: str, ask: Callable[[], str], code: str, *, note: bool = False) -> Check:
    """A comparison with what a contract says; a contract that does not answer says its error's code."""
    try:
        return Check(what, expected, ask(), code, note)
    except ChainUnreachable:
        raise
    except ChainError as error:
        return Check(what, expected, error.code, error.code)


def _listed(addresses: list[str]) -> str:
    return ", ".join(addresses) or "none"
