"""What the doctor finds, where the machine is not the one the packages are made for."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from assay.doctor import check_platform
from market.anvil import find_binary
from market.errors import ConfigError


def test_platform_npm_has_no_anvil_for_is_fine_where_an_anvil_is_found() -> None:
    finding = check_platform("Darwin", "arm64")
    assert finding.ok
    assert finding.found == "Darwin arm64"


def test_platform_npm_has_no_anvil_for_is_reported_where_none_is_found() -> None:
    def nowhere() -> Path:
        raise ConfigError("no anvil")

    finding = check_platform("Darwin", "arm64", find=nowhere)
    assert not finding.ok
    assert "PATH" in finding.fix


def test_linux_on_x86_64_needs_no_anvil_of_its_own() -> None:
    def nowhere() -> Path:
        raise ConfigError("no anvil")

    assert check_platform("Linux", "x86_64", find=nowhere).ok


def test_anvil_in_the_current_directory_is_never_chosen(tmp_path: Path) -> None:
    """A folder somebody else made must not decide what runs: only an explicit root, the checkout and PATH count."""
    planted = tmp_path / "node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil"
    planted.parent.mkdir(parents=True)
    planted.touch()
    with chdir(tmp_path):
        assert find_binary() != planted
        assert find_binary().is_absolute()
    assert find_binary(tmp_path) == planted
