"""What the set-up decides from what it finds. Nothing is installed: folders are made as a kill would leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.setup import STAMPS, forget_stamps, is_complete, must_start_over, remove_torn

INPUTS = "digest of the inputs"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """A virtualenv that was set up to run, whole."""
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "pip").touch()
    (folder / "bin" / "python").symlink_to("/usr/bin/env")
    (folder / "lib64").symlink_to("lib")
    (folder / ".stamp-run").write_text(INPUTS)
    return folder


def test_folder_with_the_stamp_of_its_inputs_is_complete(venv: Path) -> None:
    assert is_complete(venv, STAMPS["run"], INPUTS)
    assert not must_start_over(venv)


def test_folder_that_was_never_made_is_neither_complete_nor_torn(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "none", STAMPS["run"], INPUTS)
    assert not must_start_over(tmp_path / "none")


def test_folder_whose_inputs_changed_is_not_complete_but_is_kept(venv: Path) -> None:
    assert not is_complete(venv, STAMPS["run"], "digest of other inputs")
    assert not must_start_over(venv)


def test_folder_set_up_to_run_is_not_complete_for_building(venv: Path) -> None:
    assert not is_complete(venv, STAMPS["dev"], INPUTS)


def test_folder_set_up_to_build_is_complete_for_running(venv: Path) -> None:
    (venv / ".stamp-run").rename(venv / ".stamp-dev")
    assert is_complete(venv, STAMPS["run"], INPUTS)


def test_mark_of_a_killed_step_beats_a_valid_stamp(venv: Path) -> None:
    """`make demo` was whole; `make test` was killed while pip replaced packages; `make demo` used the rest."""
    (venv / ".unfinished").touch()
    assert not is_complete(venv, STAMPS["run"], INPUTS)
    assert must_start_over(venv)


def test_virtualenv_without_pip_starts_over(venv: Path) -> None:
    (venv / "bin" / "pip").unlink()
    assert must_start_over(venv)


def test_forgotten_stamps_vouch_for_nothing_and_leave_the_rest(venv: Path) -> None:
    (venv / ".stamp-dev").write_text(INPUTS)
    forget_stamps(venv)
    assert not is_complete(venv, STAMPS["run"], INPUTS)
    assert not is_complete(venv, STAMPS["dev"], INPUTS)
    assert (venv / "bin" / "pip").exists()
    forget_stamps(venv / "none")


def test_torn_folder_is_removed_but_not_what_its_links_point_to(venv: Path) -> None:
    outside = venv.parent / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (venv / "link").symlink_to(outside)
    remove_torn(venv)
    assert not venv.exists()
    assert (outside / "kept").exists()
