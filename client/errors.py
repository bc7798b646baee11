"""What can go wrong on the client's side. Each says whether money moved (it did not, unless it says so).

AssayError (market.errors)
├── ConfigError
│   ├── EmptyPrompt, BadRequest,             the caller's own input
│   │   BadAmount (market.errors)
│   ├── NotConfirmed                         nobody said yes before money moved
│   └── JobNotKnown                          no such job on this chain and in the local store
├── ChainError
│   └── InsufficientFunds, NoAllowance       the escrow cannot be taken
├── WireError
│   ├── UnsafeEndpoint                       an address that a provider must not name
│   └── OutputUnavailable                    the job is settled, its output could not be had
└── MarketError
    ├── UnknownModel (market.index), NotEnoughProviders, PriceAboveCap
    └── NoAgreement, JobCancelled
"""

from __future__ import annotations

from market.errors import ChainError, ConfigError, MarketError, WireError


class EmptyPrompt(ConfigError):
    """There is nothing to ask."""


class BadRequest(ConfigError):
    """Options that contradict each other or that the contracts would refuse."""

    assurance = "Nothing was sent."


class NotConfirmed(ConfigError):
    """The price was shown and nobody agreed to it."""


class JobNotKnown(ConfigError):
    """No job has that id here."""


class InsufficientFunds(ChainError):
    """Credit and balance together are less than the escrow."""


class NoAllowance(ChainError):
    """The vault may not take the escrow."""


class UnsafeEndpoint(WireError):
    """An endpoint with a bad scheme, or one that leads into a private network."""


class OutputUnavailable(WireError):
    """No paid replica served an output that matches the hash agreed on chain."""


class NotEnoughProviders(MarketError):
    """Fewer providers than replicas are left; `details["leftOut"]` says why for each."""


class PriceAboveCap(MarketError):
    """The cheapest quotes together cost more than the caller allows."""


class NoAgreement(MarketError):
    """The job expired; the escrow went back."""


class JobCancelled(MarketError):
    """The job was taken back; kill fees were paid, the rest of the escrow went back."""
