"""`assay demo` on the real model: what it prints, what it writes, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO_SECONDS = 240
STEPS = {
    "discovery",
    "matching",
    "negotiation",
    "distribution",
    "inference",
    "aggregation",
    "settlement",
    "total",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, real_pack: Path) -> tuple[list[dict[str, Any]], str]:
    output = tmp_path_factory.mktemp("demo") / "demo.json"
    command = [sys.executable, "-m", "assay", "demo", "--pack", str(real_pack), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    jobs: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return jobs, done.stdout


def test_demo_with_honest_providers_answers_and_pays_all_three(demo: tuple[list[dict[str, Any]], str]) -> None:
    job = demo[0][0]
    assert "Paris" in job["answer"]
    assert job["settled"] is True
    assert [entry["role"] for entry in job["providers"]] == ["agreed"] * 3
    assert all(entry["paid"] > 0 for entry in job["providers"])


def test_demo_with_a_liar_gives_the_same_answer_and_does_not_pay_it(demo: tuple[list[dict[str, Any]], str]) -> None:
    honest, lied = demo[0]
    assert lied["answer"] == honest["answer"]
    assert lied["settled"] is True
    paid = {entry["role"]: entry["paid"] for entry in lied["providers"]}
    assert paid.keys() == {"agreed", "disagreed"}
    assert paid["disagreed"] == 0 < paid["agreed"]


def test_demo_file_has_every_figure(demo: tuple[list[dict[str, Any]], str]) -> None:
    for job in demo[0]:
        assert set(job["steps_ms"]) == STEPS
        assert job["steps_ms"]["total"] >= job["steps_ms"]["inference"] > 0
        assert len(job["model_id"]) == len(job["job_id"]) == 66
        assert job["gas"]["Jobs.post"] > 100_000
        assert len(job["gas"]) == 8  # post, three commits, three reveals, settle
        assert {"address", "role", "status", "paid"} <= set(job["providers"][0])


def test_demo_shows_the_answer_the_picture_and_the_way_home(demo: tuple[list[dict[str, Any]], str]) -> None:
    text = demo[1]
    for expected in (
        "Paris",
        "agreed",
        "disagreed",
        "Jobs.settle",
        "earned",
        "Everything is stopped",
    ):
        assert expected in text


def test_demo_killed_in_the_middle_leaves_no_process(tmp_path: Path, tiny_pack: Path) -> None:
    command = [sys.executable, "-m", "assay", "demo", "--pack", str(tiny_pack), "--output", str(tmp_path / "d.json")]
    mark = {**os.environ, "ASSAY_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=mark, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(marked(str(tmp_path))) < 5:  # the demo, anvil, three agents
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while marked(str(tmp_path)):
        assert time.monotonic() < deadline, marked(str(tmp_path))
        time.sleep(0.1)


def marked(mark: str) -> list[str]:
    """Command lines of processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"ASSAY_TEST_MARK={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
