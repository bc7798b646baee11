"""The HTTP bodies of proof mode that market.api has not (docs/protocol.md, "JSON and HTTP")."""

from __future__ import annotations

from typing import Annotated

from market.api import Body, Hash, Ids, _struct
from market.types import Request


class PrivateInputBody(Body):
    """PUT /v1/requests/{requestHash} of a provider of proofs: an input that is hashed on chain, and its blinding."""

    request: Annotated[Request, _struct(Request)]
    ids: Ids
    blinding: Hash
