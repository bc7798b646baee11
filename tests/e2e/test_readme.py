"""The README's commands do what it says."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP_COMMANDS = ("make demo", "make test")
SECONDS = 400


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def shell_lines() -> list[str]:
    lines = [line.split("  #")[0].split("    #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(SETUP_COMMANDS)]


def own_provider(folder: Path) -> str:
    """The script of the README's five commands for a provider of one's own, in `folder`, on a free port."""
    block = next(block for block in blocks("text") if "assay provider init" in block).replace("\\\n", "")
    lines = [line.split("  #")[0].strip() for line in block.splitlines()]
    assert [line.split(" --")[0] for line in lines] == [
        "assay provider init", "assay up", "assay provider run", "assay provider status", "assay provider withdraw",
    ]  # fmt: skip
    init, fund, serve, status, withdraw = (line.replace("mine/", f"{folder}/mine/") for line in lines)
    log = folder / "ready"
    address = "python -c 'import json, sys; print(json.load(sys.stdin)[\"address\"])'"
    return "\n".join(
        [
            f"mkdir -p {folder}/mine; export ASSAY_PASSWORD='a password'",
            f"address=$({init} --port 0 --json | {address})",
            fund.replace("0x…", "$address"),
            f"{serve} > {log} 2> {folder}/log & agent=$!",
            f"for _ in $(seq 600); do grep -q ready {log} && break; kill -0 $agent; sleep 0.2; done",
            f"{status}; {withdraw}",
            "kill -INT $agent; wait $agent || test $? = 130; unset ASSAY_PASSWORD",
        ]
    )


def run(script: str, home: Path, folder: Path = ROOT, seconds: int = SECONDS) -> str:
    """Runs a bash script that stops at the first command that fails; returns what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "ASSAY_HOME": str(home), "COLUMNS": "160"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.usefixtures("real_pack")
def test_readme_commands_in_order_all_succeed(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(blocks("python")[0], encoding="utf-8")
    script = []
    for line in shell_lines():
        if line == "assay down":  # the network is still up: the Python sample uses it
            script += [f"echo '$ python sample.py'; python {sample}", own_provider(tmp_path)]
        script += [f"echo {line!r}" if "'" not in line else "echo", line]
    try:
        printed = run("\n".join(script), tmp_path / "home")
    finally:
        run(".venv/bin/assay down", tmp_path / "home")
    assert "settled" in printed
    assert "stake, free    1000 tUSD" in printed  # of the provider that the five commands made
    assert "Stopped; its state is kept." in printed


def test_readme_targets_exist() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", README)) | {"demo", "test"}
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in named:
        assert f"make {target} " in listed, target
        plan = ["make", "--dry-run", target]
        assert subprocess.run(plan, cwd=ROOT, capture_output=True, check=False).returncode == 0, target


def test_readme_files_and_links_exist() -> None:
    paths = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"^\| `([a-z/]+)`", README, flags=re.MULTILINE)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


@pytest.mark.readme
def test_readme_in_a_fresh_clone_from_nothing(tmp_path: Path) -> None:
    """Set-up, demo, lint, the whole suite and every other command, in a clone that has nothing."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    run("make demo && make lint && make test && make help && make bench NAME=gas", tmp_path / "home", clone, 5400)
    run("\n".join(shell_lines()), tmp_path / "home", clone, 600)
    run("make format && make contracts && git diff --exit-code", tmp_path / "home", clone, 600)
    run("make clean", tmp_path / "home", clone, 60)
    left = subprocess.run(
        ["git", "status", "--short", "--ignored"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert "build/" not in left.stdout
