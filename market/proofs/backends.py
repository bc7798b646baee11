"""Which proving systems there are. An artefact records the name of its own in encoding.json, and so in its modelId.

A system that is not here is one line in BACKENDS: the commands that prove and hash ask nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from market.errors import ConfigError
from market.proofs.artefact import ProofArtefact
from market.proofs.backend import ProvingBackend
from market.proofs.process import Limits


def _ezkl(limits: Limits) -> ProvingBackend:
    from market.proofs.ezkl_backend import EzklBackend

    return EzklBackend(limits)


BACKENDS: dict[str, Callable[[Limits], ProvingBackend]] = {"ezkl": _ezkl}


def backend_of(artefacts: Iterable[ProofArtefact], limits: Limits | None = None) -> ProvingBackend:
    """The one backend that all of these artefacts were set up with.

    Args:
        limits: of each of its processes.
    Raises:
        ConfigError: codes UnknownBackend; SeveralBackends; ProofExtraMissing, its packages are not installed.
    """
    names = {artefact.backend: artefact for artefact in artefacts}
    for name, artefact in names.items():
        if name not in BACKENDS:
            raise ConfigError(
                f"{artefact.folder} was set up with the proving backend “{name[:40]}”, which is not here: there is "
                f"{', '.join(sorted(BACKENDS))}.",
                hint="Set the model up again with one of those, or use the version that made this artefact.",
                code="UnknownBackend",
            )
    if len(names) != 1:
        raise ConfigError(
            f"One process proves with one backend; these artefacts are of {' and '.join(sorted(names)) or 'none'}.",
            hint="Start one for each, with a key of its own.",
            code="SeveralBackends",
        )
    return BACKENDS[next(iter(names))](limits or Limits())
