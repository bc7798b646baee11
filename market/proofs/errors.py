"""What can go wrong with proofs. Codes are stable."""

from __future__ import annotations

from market.errors import AssayError, ConfigError, WireError


class ProverError(AssayError):
    """The proving backend did not do its work; codes ProverTimeout, ProverOutOfMemory, ProverKilled, ProverFailed."""

    assurance = "No proof was made and nothing was sent."


class NotProvable(ConfigError):
    """A model that takes longer, or more memory, than was allowed; or that no circuit can be made of."""


class SrsError(ConfigError):
    """A file of powers of tau is missing, another one than was named, of another size or format; codes SrsMissing,
    SrsMismatch, SrsSize, SrsMalformed."""


class ArtefactError(WireError):
    """A proof artefact is not what its manifest, or its model's id, says."""
