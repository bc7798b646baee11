"""Hashes: keccak256, EIP-712 hashStruct, Merkle trees and the tokens root (docs/protocol.md, "Wire format")."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sha3 import keccak_256

ZERO32 = bytes(32)
UNUSED_TOKEN = 0xFFFFFFFF
TOKENS_PER_LEAF = 8
STOP_TOKENS_MAX = 8


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (not SHA3-256). Returns 32 bytes."""
    return bytes(keccak_256(data).digest())


def leaf_hash(payload: bytes) -> bytes:
    """Leaf of a model or trace tree: keccak256(0x00 ‖ payload).

    Raises:
        ValueError: the payload is not a multiple of 32 bytes; the rule keeps a leaf from looking like a node.
    """
    if len(payload) % 32:
        raise ValueError(f"a leaf's payload is a multiple of 32 bytes, not {len(payload)}")
    return keccak256(b"\0" + payload)


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """Root of 32-byte leaf hashes padded with zero words to a power of two; no leaves → the zero word."""
    level = list(leaves)
    if not level:
        return ZERO32
    while len(level) > 1 or (len(level) & (len(level) - 1)):
        if len(level) & (len(level) - 1):
            level += [ZERO32] * ((1 << len(level).bit_length()) - len(level))
        level = [keccak256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def pack_tokens(ids: Sequence[int]) -> bytes:
    """Ids as uint32 big-endian, filled with 0xffffffff to whole 32-byte words: the form they take on chain.

    Raises:
        ValueError: an id is negative or ≥ 2³² − 1.
    """
    if any(not 0 <= token < UNUSED_TOKEN for token in ids):
        raise ValueError("a token id lies in 0 … 2**32 - 2")
    filled = [*ids, *[UNUSED_TOKEN] * (-len(ids) % TOKENS_PER_LEAF)]
    return struct.pack(f">{len(filled)}I", *filled)


def unpack_tokens(packed: bytes, count: int) -> list[int]:
    """The first `count` ids of `pack_tokens`' form; the rest must be filler.

    Raises:
        ValueError: wrong length, or filler that is not 0xffffffff.
    """
    words = -(-count // TOKENS_PER_LEAF)
    if len(packed) != 32 * words:
        raise ValueError(f"{count} ids take {32 * words} bytes, not {len(packed)}")
    ids = list(struct.unpack(f">{TOKENS_PER_LEAF * words}I", packed))
    if any(token != UNUSED_TOKEN for token in ids[count:]) or UNUSED_TOKEN in ids[:count]:
        raise ValueError("ids and filler do not match the count")
    return ids[:count]


def tokens_root(ids: Sequence[int]) -> bytes:
    """Root over token ids, eight a leaf. The count is bound beside the root in every struct."""
    packed = pack_tokens(ids)
    return merkle_root(leaf_hash(packed[i : i + 32]) for i in range(0, len(packed), 32))


def pack_stop_tokens(ids: Iterable[int]) -> bytes:
    """`Request.stopTokens`: up to eight ids, ascending, unused = 0xffffffff. Returns 32 bytes.

    Raises:
        ValueError: more than eight.
    """
    unique = sorted(set(ids))
    if len(unique) > STOP_TOKENS_MAX:
        raise ValueError(f"at most {STOP_TOKENS_MAX} stop tokens, not {len(unique)}")
    return pack_tokens(unique) or b"\xff" * 32


def unpack_stop_tokens(packed: bytes) -> tuple[int, ...]:
    """The ids of `Request.stopTokens`.

    Raises:
        ValueError: not 32 bytes, not strictly ascending, or an id after filler.
    """
    if len(packed) != 32:
        raise ValueError("stopTokens is one 32-byte word")
    ids = struct.unpack(">8I", packed)
    used = tuple(token for token in ids if token != UNUSED_TOKEN)
    if ids[: len(used)] != used or any(a >= b for a, b in itertools.pairwise(used)):
        raise ValueError("stop tokens are ascending, unused ones last")
    return used


@dataclasses.dataclass(frozen=True)
class Struct:
    """Base of every dataclass on the wire. Fields carry their Solidity name and type in `metadata`."""

    @classmethod
    def members(cls) -> tuple[tuple[str, str, str], ...]:
        """(attribute, Solidity name, Solidity type) of each field, in the order of the EIP-712 type."""
        return tuple((f.name, f.metadata["name"], f.metadata["kind"]) for f in dataclasses.fields(cls))

    @classmethod
    def type_string(cls) -> str:
        """`Name(type field,…)` as EIP-712 encodeType gives it."""
        return f"{cls.__name__}({','.join(f'{kind} {name}' for _, name, kind in cls.members())})"

    def values(self) -> tuple[object, ...]:
        """Field values in order, addresses as hex: what eth_abi and web3 take for the Solidity struct."""
        return tuple(getattr(self, attribute) for attribute, _, _ in self.members())

    def hash_struct(self) -> bytes:
        """EIP-712 hashStruct. All fields are static, so it is keccak256(abi.encode(TYPEHASH, fields…))."""
        kinds = ["bytes32", *(kind for _, _, kind in self.members())]
        return keccak256(encode_static(kinds, [_type_hash(self.type_string()), *self.values()]))


@cache
def _type_hash(type_string: str) -> bytes:
    return keccak256(type_string.encode())


def job_id(chain_id: int, jobs: str, client: str, client_nonce: int) -> bytes:
    """keccak256(abi.encode(chainId, jobs, client, clientNonce)): known before the job is posted."""
    kinds = ["uint256", "address", "address", "uint256"]
    return keccak256(encode_static(kinds, [chain_id, jobs, client, client_nonce]))


def chain_seed(job: bytes, block_hash: bytes) -> bytes:
    """keccak256(abi.encode(jobId, hash of the seed block)): what a job is sampled with that the chain seeds."""
    return keccak256(job + block_hash)


def encode_static(kinds: Sequence[str], values: Sequence[Any]) -> bytes:
    """abi.encode of static values: a word of 32 bytes each.

    Not eth_abi's, which this is tested against: importing that takes longer than an engine's whole start.

    Raises:
        ValueError: a value does not fit its type.
    """
    return b"".join(_word(kind, value) for kind, value in zip(kinds, values, strict=True))


def _word(kind: str, value: Any) -> bytes:
    if kind == "bytes32" and isinstance(value, bytes) and len(value) == 32:
        return value
    if kind == "address" and isinstance(value, str) and len(value) == 42 and value.startswith("0x"):
        return bytes.fromhex(value[2:]).rjust(32, b"\0")
    if kind.startswith("uint") and isinstance(value, int) and 0 <= value < 1 << int(kind[4:]):
        return int(value).to_bytes(32, "big")
    if kind == "int256" and isinstance(value, int) and -(1 << 255) <= value < 1 << 255:
        return int(value).to_bytes(32, "big", signed=True)
    raise ValueError(f"{value!r} does not fit {kind}")
