"""The one module that imports ezkl: a process that does one task, within its limit of memory, and ends.

Standard input: {"task": …, "memory": bytes, "answer": path, …}. Call order of ezkl 23: gen_settings, compile_circuit,
gen_srs, setup, gen_witness, prove, verify (sync); create_evm_verifier (awaitable).
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLINDING_ROWS = 16
"""Rows at the end of a circuit that halo2 keeps for itself, and some."""
FIELD = 21888242871839275222246405745257275088548364400416034343698204186575808495617
_PR_SET_PDEATHSIG = 1  # prctl(2)
_VISIBILITY = {0: "public", 1: "hashed"}
_WEIGHTS = {0: "fixed", 1: "hashed"}


def felt(value: int) -> str:
    """A field element as ezkl's JSON has it: 32 bytes, little-endian, hex."""
    return (value % FIELD).to_bytes(32, "little").hex()


def integer(text: str) -> int:
    """The field element of ezkl's JSON."""
    return int.from_bytes(bytes.fromhex(text), "little")


def estimate(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Writes settings.json; rows, cells and k."""
    folder, options = Path(task["folder"]), task["options"]
    chosen = ezkl.PyRunArgs()
    chosen.input_visibility = _VISIBILITY[options["form"]]
    chosen.param_visibility = _WEIGHTS[options["weights"]]
    chosen.output_visibility = "public"
    chosen.input_scale, chosen.param_scale = options["input_scale"], options["weight_scale"]
    chosen.decomp_base, chosen.decomp_legs = options["decomposition_base"], options["decomposition_legs"]
    chosen.num_inner_cols = options["columns"]
    # inputs and outputs are compared on chain, number by number (or are the client's own, hashed): no check is lost
    chosen.ignore_range_check_inputs_outputs = True
    path = folder / "settings.json"
    ezkl.gen_settings(str(folder / "circuit.onnx"), str(path), py_run_args=chosen)
    settings = json.loads(path.read_text(encoding="utf-8"))
    modules = settings["module_sizes"]
    # a table that does not fit one column is cut into several, each with arguments of its own: its verifier, ten times
    # as large as a contract may be, is only known after minutes. So a circuit has the rows of its largest table.
    ranges = [*settings["required_range_checks"]]
    if settings["required_lookups"]:
        ranges.append(settings["run_args"]["lookup_range"])
    needed = max(
        settings["num_rows"],
        options["decomposition_base"],
        settings["total_const_size"],
        sum(math.prod(shape) for shape in settings["model_instance_shapes"]),
        modules["poseidon"][0],
        *(high - low + 1 for low, high in ranges),
    )
    settings["run_args"]["logrows"] = max(6, math.ceil(math.log2(needed + BLINDING_ROWS)))
    settings.pop("timestamp", None)
    # listed in an order that changes from run to run, which the verifying key follows: one source, one key
    for order in (settings["required_range_checks"], settings["required_lookups"]):
        order.sort(key=json.dumps)
    settings["einsum_params"]["equations"].sort(key=lambda equation: json.dumps(equation, sort_keys=True))
    path.write_text(json.dumps(settings, sort_keys=True), encoding="utf-8")
    return {
        "rows": needed,
        "assignments": settings["total_assignments"],
        "logRows": settings["run_args"]["logrows"],
        "lookups": len(settings["required_lookups"]),
        "inputScale": settings["model_input_scales"][0],
        "outputScale": settings["model_output_scales"][0],
        "shapes": settings["model_instance_shapes"],
        "version": settings["version"],
    }


def powers(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Development only: this process knows the secret and could prove anything with it."""
    ezkl.gen_srs(task["path"], task["logRows"])
    return {}


def setup(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Compiles the circuit, makes the keys, writes the verifier's source."""
    folder, srs = Path(task["folder"]), task["srs"]
    circuit, settings = str(folder / "circuit.ezkl"), str(folder / "settings.json")
    ezkl.compile_circuit(str(folder / "circuit.onnx"), circuit, settings)
    ezkl.setup(circuit, str(folder / "vk.key"), str(folder / "pk.key"), srs)
    source = folder / "verifier.sol"
    source.unlink(missing_ok=True)

    async def write() -> None:
        await ezkl.create_evm_verifier(
            str(folder / "vk.key"), settings, str(source), str(folder / "verifier.abi"), srs, False
        )

    try:
        asyncio.run(write())
    except RuntimeError:
        # it wants to download a compiler once the source is written; ours compiles it
        if not source.exists():
            raise
    (folder / "verifier.abi").unlink(missing_ok=True)
    return {}


def witness(ezkl: Any, folder: Path, srs: str, inputs: list[int], tag: int, scratch: Path) -> dict[str, Any]:
    """ezkl's witness of one input, which may have a blinding at its end."""
    given, made = scratch / "input.json", scratch / "witness.json"
    data = {"input_data": [[felt(value) for value in inputs], [felt(tag)]]}
    given.write_text(json.dumps(data), encoding="utf-8")
    ezkl.gen_witness(str(given), str(folder / "circuit.ezkl"), str(made), str(folder / "vk.key"), srs)
    found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    return found


def prove(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """A proof and its instances."""
    folder, scratch = Path(task["folder"]), Path(task["answer"]).parent
    witness(ezkl, folder, task["srs"], task["inputs"], int(task["tag"]), scratch)
    path = scratch / "proof.json"
    ezkl.prove(
        str(scratch / "witness.json"), str(folder / "circuit.ezkl"), str(folder / "pk.key"), str(path), task["srs"]
    )
    made = json.loads(path.read_text(encoding="utf-8"))
    return {"proof": made["hex_proof"], "instances": [str(integer(value)) for value in made["instances"][0]]}


def verify(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Whether a proof holds; what is malformed does not."""
    folder, scratch = Path(task["folder"]), Path(task["answer"]).parent
    path = scratch / "proof.json"
    document = {
        "instances": [[felt(int(value)) for value in task["instances"]]],
        "proof": list(bytes.fromhex(task["proof"])),
        "hex_proof": "0x" + task["proof"],
        "protocol": None,
        "split": None,
        "pretty_public_inputs": None,
        "timestamp": None,
        "version": None,
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    arguments = (str(path), str(folder / "settings.json"), str(folder / "vk.key"), task["srs"])
    started = time.perf_counter()
    try:
        holds = ezkl.verify(*arguments) is True
    except RuntimeError as error:
        return {"holds": False, "why": str(error)[:200], "seconds": time.perf_counter() - started}
    return {"holds": holds, "why": "", "seconds": time.perf_counter() - started}


def run(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a batch as field elements, without proving."""
    folder, scratch = Path(task["folder"]), Path(task["answer"]).parent
    outputs = []
    for inputs in task["batch"]:
        found = witness(ezkl, folder, task["srs"], inputs, 0, scratch)
        outputs.append([str(integer(value)) for value in found["outputs"][0]])
    return {"outputs": outputs}


def digest(ezkl: Any, task: dict[str, Any]) -> dict[str, Any]:
    """The Poseidon hash of an input, as a hashed circuit shows it."""
    return {"hash": str(integer(ezkl.poseidon_hash([felt(value) for value in task["inputs"]])[0]))}


TASKS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "estimate": estimate,
    "powers": powers,
    "setup": setup,
    "prove": prove,
    "verify": verify,
    "run": run,
    "digest": digest,
}


def peak_memory() -> int:
    """Bytes. Not ru_maxrss: that counts the process which started this one, too, as it was before `exec`."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def confine(memory: int, cpu_seconds: int, parent: int) -> None:
    """Bytes of address space; seconds of all threads; and no life after the process that waits for the answer, which
    may be killed before it can end this one."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl took effect
            os._exit(1)


def main() -> None:
    task = json.load(sys.stdin)
    confine(int(task["memory"]), int(task["cpuSeconds"]), int(task["parent"]))
    import ezkl

    result = TASKS[task["task"]](ezkl, task)
    used = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"peakMemory": peak_memory(), "cpuSeconds": used.ru_utime + used.ru_stime}
    Path(task["answer"]).write_text(json.dumps(result), encoding="utf-8")
    # ezkl's threads outlive its calls and crash, now and then, an interpreter that takes itself apart around them
    os._exit(0)


if __name__ == "__main__":
    main()
