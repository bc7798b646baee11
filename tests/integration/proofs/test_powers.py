"""Powers of tau by path: a file that was written by other means than ezkl, of a known tau, does what a ceremony's does;
one that is not what it should be is refused before anything is made with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from market.errors import ConfigError
from market.proofs.artefact import SRS, ProofArtefact, load_artefact
from market.proofs.cli import app
from market.proofs.ezkl_backend import EzklBackend
from market.proofs.setup import SetupWish, set_up
from market.proofs.srs import CEREMONY, Ceremony, check_size, file_size, sha256_of
from tests.integration.proofs.conftest import SOLC
from tests.integration.proofs.tau import ORDER, write_powers
from tests.integration.proofs.test_attacks import Scene, install, post, prove
from tests.integration.proofs.tiny import write_tiny
from tests.unit.contracts.proofs import ProofWorld

LOG_ROWS = 10
TAU = 0x1D5C_0FFE_E15A_60D0_BEEF**3 % ORDER


@pytest.fixture(scope="module")
def powers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_powers(tmp_path_factory.mktemp("tau") / "kzg10.srs", TAU, LOG_ROWS)


def test_a_file_of_a_ceremony_makes_keys_whose_proofs_the_chain_accepts(
    powers: Path, tiny: ProofArtefact, proving: ProofWorld, backend: EzklBackend, tmp_path: Path
) -> None:
    wish = SetupWish(
        write_tiny(tmp_path / "m.onnx", 1), "m", SOLC, ceremony=Ceremony(powers, sha256_of(powers)), licence="none"
    )
    made = set_up(wish, tmp_path / "out", backend)
    assert (made.srs_kind, made.is_unsafe) == (CEREMONY, False)
    assert made.manifest["srs"] == {"kind": CEREMONY, "sha256": sha256_of(powers), "logRows": LOG_ROWS}
    assert (made.folder / SRS).read_bytes() == powers.read_bytes()
    assert made.model_id != tiny.model_id  # another string, another key
    install(proving, made)
    job = post(proving, made)
    proof = prove(backend, made, job)
    assert backend.verify(made.folder, proof)
    assert not backend.verify(tiny.folder, proof)
    Scene(proving, job, proof).settle()


def _refused(options: list[str], source: Path, out: Path) -> ConfigError:
    ran = CliRunner().invoke(app, ["prove-setup", str(source), "--out", str(out), *options])
    assert isinstance(ran.exception, ConfigError), ran.output
    assert "UNSAFE" not in ran.output
    assert not out.exists()
    return ran.exception


def test_a_file_that_is_not_the_one_that_was_named_is_refused(powers: Path, tmp_path: Path) -> None:
    """One bit of it, its hash, its size, its format."""
    source, out = write_tiny(tmp_path / "m.onnx", 1), tmp_path / "out"
    good = powers.read_bytes()
    named = ["--srs-sha256", sha256_of(powers)]
    bent = tmp_path / "bent.srs"
    bent.write_bytes(good[:5_000] + bytes([good[5_000] ^ 1]) + good[5_001:])
    error = _refused(["--srs", str(bent), *named], source, out)
    assert (error.code, error.details["got"]) == ("SrsMismatch", sha256_of(bent))
    for content, code, words in (
        (good[:-1], "SrsMalformed", "cut off"),
        (good + b"\0", "SrsMalformed", "cut off"),
        ((LOG_ROWS + 1).to_bytes(4, "little") + good[4:], "SrsSize", "2^11 powers"),
        (b"ptau" + good[4:], "SrsMalformed", "snarkjs"),
        (b"\xff" * 100, "SrsMalformed", "no file of powers"),
        (b"", "SrsMalformed", "no file of powers"),
    ):
        wrong = tmp_path / "wrong.srs"
        wrong.write_bytes(content)
        error = _refused(["--srs", str(wrong), "--srs-sha256", sha256_of(wrong)], source, out)
        assert error.code == code
        assert words in f"{error.message} {error.hint}"
    error = _refused(["--srs", str(tmp_path / "none.srs"), *named], source, out)
    assert error.code == "SrsMissing"
    error = _refused(["--srs", str(powers)], source, out)
    assert "go together" in error.message


def test_a_hash_is_taken_in_either_case_and_with_0x(powers: Path, tmp_path: Path) -> None:
    srs = ["--srs", str(powers), "--srs-sha256", "0x" + sha256_of(powers).upper()]
    ran = CliRunner().invoke(
        app,
        ["prove-setup", str(write_tiny(tmp_path / "m.onnx", 1)), "--out", str(tmp_path / "out"), "--json", *srs],
    )
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["srs"]["kind"] == CEREMONY
    assert not load_artefact(tmp_path / "out").is_unsafe


def test_the_size_of_a_file_is_that_of_the_string_it_holds(powers: Path, tiny: ProofArtefact) -> None:
    """ezkl's own writer and ours agree."""
    check_size(powers, LOG_ROWS)
    check_size(tiny.folder / SRS, LOG_ROWS)
    assert powers.stat().st_size == (tiny.folder / SRS).stat().st_size == file_size(LOG_ROWS)
