"""The files an operator copies: systemd's own tools read the unit, and what it promises is in it."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from provider.metrics import Metrics

DOCS = Path(__file__).resolve().parents[3] / "docs"
UNIT = DOCS / "operations" / "assay-provider.service"
ANALYZE = shutil.which("systemd-analyze")
PROMTOOL = shutil.which("promtool")  # Debian's package prometheus


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_unit_is_hardened_and_takes_its_password_as_a_credential() -> None:
    found = settings()
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces", "RestrictSUIDSGID"):
        assert found[key] == ["yes"], key
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["LimitCORE"] == ["0"]
    assert found["LoadCredential"] == ["password:/etc/assay/password"]
    assert "--password-file %d/password" in found["ExecStart"][0]
    assert found["Restart"] == ["on-failure"]  # a finished drain exits with 0 and stays down
    assert found["RestartPreventExitStatus"] == ["2"]


def test_unit_parses_as_sections() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    assert parser.sections() == ["Unit", "Service", "Install"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed here")
def test_systemd_finds_nothing_wrong_with_the_unit_and_little_exposed(tmp_path: Path) -> None:
    assert ANALYZE is not None
    text = UNIT.read_text(encoding="utf-8").replace("/opt/assay/.venv/bin/assay", sys.executable)
    copy = tmp_path / UNIT.name
    copy.write_text(text, encoding="utf-8")
    verified = subprocess.run([ANALYZE, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    rated = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", str(copy)], capture_output=True, text=True, timeout=60
    )
    level = re.search(r"exposure level[^:]*: ([0-9.]+)", rated.stdout)
    assert level is not None, rated.stdout + rated.stderr
    assert float(level[1]) <= 2.0


def test_board_has_panels_that_do_not_overlap_and_a_data_source_to_choose() -> None:
    board = json.loads((DOCS / "operations" / "grafana.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        assert panel["targets"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert board["templating"]["list"][0]["type"] == "datasource"


def test_alerts_are_rules_and_the_handbook_says_what_to_do_for_each() -> None:
    rules = yaml.safe_load((DOCS / "operations" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    handbook = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert len(rules) >= 5
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "annotations"}
        assert f"`{rule['alert']}`" in handbook


def test_limits_that_the_handbook_names_are_the_defaults() -> None:
    from provider.config import Limits

    limits, handbook = Limits(), " ".join((DOCS / "operations.md").read_text(encoding="utf-8").split())
    for said in (
        f"{limits.requests_per_second} requests a second, {limits.connections_per_address} connections",
        f"({limits.total_requests_per_second} a second)",
        f"no head within {limits.head_seconds} s, no body within {limits.body_seconds} s",
        f"read no answer within {limits.answer_seconds} s",
    ):
        assert said in handbook, said


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed here")
def test_prometheus_reads_every_expression_and_finds_no_fault_with_the_names(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    board = json.loads((DOCS / "operations" / "grafana.json").read_text(encoding="utf-8"))
    asked = [target["expr"].replace("$instance", ".*") for panel in board["panels"] for target in panel["targets"]]
    rules = [{"record": f"board:{number}", "expr": expr} for number, expr in enumerate(asked)]
    written = tmp_path / "board.yml"
    written.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}), encoding="utf-8")
    for path in (written, DOCS / "operations" / "alerts.yml"):
        checked = subprocess.run([PROMTOOL, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    exposition = generate_latest(Metrics().registry)
    lint = subprocess.run([PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, timeout=60)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, b"")
