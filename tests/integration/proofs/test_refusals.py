"""What is refused on a chain that is reached as everybody reaches it, and what is told of it; committed weights from
quote to settlement."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from eth_abi import decode

from market.anvil import Anvil
from market.errors import ContractError
from market.events import decode_logs
from market.proof_contracts import ProofJobParams
from market.proofs.artefact import ProofArtefact
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.registration import register
from market.signing import sign
from market.types import Request
from market.views import ProofJobState
from provider.proofs_cli import proving
from tests.integration.chain.world import PROVIDERS, World, build
from tests.integration.proofs.shopping import BASE_FEE, STRANGER, VALUES, Shopping
from tests.unit.contracts.proofs import pack

PROVER = 1  # of PROVIDERS


def _post(shopping: Shopping, artefact: ProofArtefact) -> tuple[Any, bytes]:
    """A job of somebody else's for PROVER, whose agent has stopped."""
    with proving(shopping.settings(artefact, provider=PROVER)) as agent:
        offered = shopping.client.negotiate(artefact, VALUES, agent.url)
    quote, signature = shopping.requote(offered.quote, provider=PROVER)
    params = ProofJobParams(BASE_FEE, 600, offered.request, quote, signature)
    sent = shopping.world.send(STRANGER, shopping.world.contracts.proofs.post(params))
    return offered, next(e for e in decode_logs(sent.logs) if e.name == "ProofJobPosted").args["jobId"]


def test_a_bent_and_a_foreign_proof_are_refused_with_their_reason(
    shopping: Shopping, tiny: ProofArtefact, other: ProofArtefact, backend: EzklBackend
) -> None:
    offered, job_id = _post(shopping, tiny)
    proofs, earned = shopping.world.contracts.proofs, shopping.credit(PROVIDERS[PROVER])
    good, foreign = (backend.prove(artefact.folder, offered.ids, job_id) for artefact in (tiny, other))
    data, instances = decode(["bytes", "uint256[]"], good.data)
    bent = pack(data[:200] + bytes([data[200] ^ 1]) + data[201:], instances)
    with shopping.world.as_(PROVIDERS[PROVER]) as transactions:
        for ids, proof, code, words in (
            (good.ids, bent, "ProofRefused", "refuses the proof"),
            (foreign.ids, foreign.data, "ProofRefused", "refuses the proof"),
            (foreign.ids, good.data, "StatementMismatch", "output"),
            (good.ids, good.data[:-1], "MalformedProof", "not encoded"),
        ):
            with pytest.raises(ContractError) as caught:
                transactions.send(proofs.settle(job_id, offered.request, ids, proof))
            assert caught.value.code == code
            assert words in str(caught.value)
            assert "othing" in str(caught.value)
        assert proofs.job(job_id).state == ProofJobState.OPEN
        assert shopping.credit(PROVIDERS[PROVER]) == earned
        transactions.send(proofs.settle(job_id, offered.request, good.ids, good.data))
    assert shopping.credit(PROVIDERS[PROVER]) == earned + BASE_FEE


def test_a_proof_of_another_job_or_chain_or_sender_and_one_that_was_used_are_refused_with_their_reason(
    shopping: Shopping, tiny: ProofArtefact, backend: EzklBackend, tmp_path: Path
) -> None:
    world = shopping.world
    first, first_id = _post(shopping, tiny)
    proof = backend.prove(tiny.folder, first.ids, first_id)

    def refused(where: World, sender: int, job_id: bytes, request: Request, code: str, *words: str) -> None:
        proofs, vault, token = where.contracts.proofs, where.vault, where.token.address
        before, held = proofs.job(job_id), vault.held(proofs.address, token)
        credits = [vault.credit(token, where.account(index).address) for index in PROVIDERS]
        with where.as_(sender) as transactions, pytest.raises(ContractError) as caught:
            transactions.send(proofs.settle(job_id, request, proof.ids, proof.data))
        assert caught.value.code == code
        for word in (job_id.hex(), *words):
            assert word in str(caught.value)
        assert "Nothing was" in str(caught.value)
        assert (proofs.job(job_id), vault.held(proofs.address, token)) == (before, held)
        assert [vault.credit(token, where.account(index).address) for index in PROVIDERS] == credits

    ours, theirs = (world.account(PROVIDERS[index]).address for index in (PROVER, 0))
    refused(world, PROVIDERS[0], first_id, first.request, "NotTheProver", f"is {ours}'s to prove", f"not {theirs}'s")

    second, second_id = _post(shopping, tiny)
    assert second.ids == first.ids
    refused(world, PROVIDERS[PROVER], second_id, second.request, "StatementMismatch", "not about job", "jobId differs")

    with Anvil.start(chain_id=1337) as anvil:
        far = build(anvil, tmp_path)
        far.deposit(STRANGER)
        with far.as_(PROVIDERS[0]) as transactions:
            register(tiny, far.contracts, transactions)
        quote = dataclasses.replace(shopping.requote(first.quote, provider=PROVER)[0], token=far.token.address)
        signature = sign(far.contracts.proofs.domain, quote, far.account(PROVIDERS[PROVER]))
        posted = far.send(
            STRANGER, far.contracts.proofs.post(ProofJobParams(BASE_FEE, 600, first.request, quote, signature))
        )
        far_id = next(e for e in decode_logs(posted.logs) if e.name == "ProofJobPosted").args["jobId"]
        refused(far, PROVIDERS[PROVER], far_id, first.request, "StatementMismatch", "not about job", "jobId differs")

    with world.as_(PROVIDERS[PROVER]) as transactions:
        transactions.send(world.contracts.proofs.settle(first_id, first.request, proof.ids, proof.data))
    for sender in (PROVER, 0):  # whoever sends it again
        refused(world, PROVIDERS[sender], first_id, first.request, "ProofJobNotOpen", "it was settled")


def test_committed_weights_are_sold_and_those_of_another_model_are_not(
    shopping: Shopping, committed: tuple[ProofArtefact, ProofArtefact], backend: EzklBackend
) -> None:
    ours, theirs = committed
    with shopping.world.as_(PROVIDERS[0]) as transactions:
        assert register(ours, shopping.world.contracts, transactions).sent
    with proving(shopping.settings(ours, provider=PROVER)) as agent:
        bought = shopping.client.negotiate(ours, VALUES, agent.url)
        result = shopping.client.classify(bought)
    assert result.paid == BASE_FEE
    assert tuple(result.ids) == backend.run(ours.folder, [bought.ids])[0]
    offered, job_id = _post(shopping, ours)
    foreign = backend.prove(theirs.folder, offered.ids, job_id)
    call = shopping.world.contracts.proofs.settle(job_id, offered.request, foreign.ids, foreign.data)
    with shopping.world.as_(PROVIDERS[PROVER]) as transactions, pytest.raises(ContractError, match="model") as caught:
        transactions.send(call)
    assert caught.value.code == "StatementMismatch"
