"""The check of nonces that the tests of many jobs make does notice a nonce that is missing."""

from __future__ import annotations

from pathlib import Path

from eth_account.signers.local import LocalAccount

from market.anvil import development_accounts
from market.chain import Call, Chain
from market.transactions import Transactions
from tests.nonces import holes

OTHER = "0x" + "77" * 20
PATIENCE = 0.2


def give(chain: Chain, account: LocalAccount, nonce: int, to: str = OTHER, value: int = 1) -> None:
    """Hands the endpoint one transaction with this nonce, whichever is next."""
    fields = {"nonce": nonce, "to": to, "value": value, "gas": 21_000, "gasPrice": 10**10, "chainId": chain.chain_id}
    chain.broadcast(bytes(account.sign_transaction(fields).raw_transaction))


def test_a_nonce_that_is_left_out_is_seen_until_it_is_used(chain: Chain) -> None:
    account = development_accounts()[0]
    give(chain, account, 0)
    assert holes(chain, [account.address], PATIENCE) == []
    give(chain, account, 2)
    assert chain.transaction_count(account.address, "pending") == chain.transaction_count(account.address) == 1
    assert holes(chain, [account.address], PATIENCE) == ["1 transactions are queued"]
    give(chain, account, 1)
    assert holes(chain, [account.address], PATIENCE) == []


def test_a_nonce_that_was_filled_is_seen(chain: Chain, tmp_path: Path) -> None:
    account, other = development_accounts()[:2]
    with Transactions(chain, account, tmp_path / "queue.sqlite", lock_timeout=0.0) as transactions:
        transactions.send(Call(OTHER, b"", "transfer", value=1))
        transactions.send(Call(account.address, b"", "a filler of a nonce gap"))  # as the queue itself makes one
    (found,) = holes(chain, [account.address], PATIENCE)
    assert found == f"nonce 1 of {account.address.lower()} was filled in block 2"
    assert holes(chain, [other.address], PATIENCE) == []


def test_a_transaction_that_stays_in_the_pool_is_seen(chain: Chain) -> None:
    chain.rpc("evm_setAutomine", False)
    account = development_accounts()[0]
    give(chain, account, 0)
    assert holes(chain, [account.address], PATIENCE) == ["1 transactions are pending"]
