"""What is encrypted at rest opens with its key, for its place and its purpose, unchanged: and with nothing else."""

from __future__ import annotations

import hmac

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from market.at_rest import OVERHEAD, VERSION, Cipher, Undecipherable

ACCOUNT = Account.from_key(b"\1" * 32)
CIPHER = Cipher(ACCOUNT, "tests")
PROMPT = b"the canary sings at 4711 quokka lane"


@given(content=st.binary(max_size=300), place=st.binary(max_size=40))
def test_content_comes_back_and_its_length_is_all_that_shows(content: bytes, place: bytes) -> None:
    encrypted = CIPHER.encrypt(content, place)
    assert Cipher(ACCOUNT, "tests").decrypt(encrypted, place) == content
    assert len(encrypted) == len(content) + OVERHEAD
    assert len(content) < 8 or content not in encrypted


def test_equal_contents_look_different() -> None:
    assert len({CIPHER.encrypt(PROMPT, b"a") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("cipher", "place"),
    [
        (Cipher(Account.from_key(b"\2" * 32), "tests"), b"a"),
        (Cipher(ACCOUNT, "other"), b"a"),
        (CIPHER, b"b"),
    ],
    ids=["key", "purpose", "place"],
)
def test_another_key_purpose_or_place_opens_nothing(cipher: Cipher, place: bytes) -> None:
    with pytest.raises(Undecipherable, match=cipher.address) as refused:
        cipher.decrypt(CIPHER.encrypt(PROMPT, b"a"), place)
    assert "left as it is" in str(refused.value)
    assert PROMPT.decode() not in str(refused.value)


@given(at=st.integers(0, OVERHEAD + len(PROMPT) - 1), flipped=st.integers(1, 255))
def test_each_changed_byte_is_noticed(at: int, flipped: int) -> None:
    encrypted = bytearray(CIPHER.encrypt(PROMPT, b"a"))
    encrypted[at] ^= flipped
    with pytest.raises(Undecipherable):
        CIPHER.decrypt(bytes(encrypted), b"a")


@pytest.mark.parametrize("length", [0, 1, 12, 13, 28])
def test_what_is_too_short_is_noticed(length: int) -> None:
    with pytest.raises(Undecipherable):
        CIPHER.decrypt((VERSION + bytes(40))[:length], b"a")


def test_key_is_none_that_signs_or_encrypts_elsewhere() -> None:
    """The account's own bytes never leave it: the key is HKDF's (RFC 5869), apart by purpose."""
    keys = {bytes(ACCOUNT.key), CIPHER._key, Cipher(ACCOUNT, "other")._key}
    assert len(keys) == 3
    extracted = hmac.digest(bytes(32), bytes(ACCOUNT.key), "sha256")
    assert CIPHER._key == hmac.digest(extracted, b"assay/at-rest/1/tests\1", "sha256")
