"""`assay model prove-setup|prove-show|prove-register`: proof artefacts. Errors are AssayErrors; the root command prints
them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from market.errors import ConfigError
from market.models.cli import Json, app
from market.proofs.artefact import ProofArtefact, load_artefact
from market.proofs.backend import CircuitOptions, InputForm, WeightForm
from market.proofs.process import MIB, Limits
from market.proofs.srs import UNSAFE, Ceremony

if TYPE_CHECKING:
    from market.proofs.setup import SetupWish

HIDDEN = (
    "Committed weights are bound and hidden, not secret for good: guesses of them can be checked, and who buys very "
    "many proofs can work them out (docs/proofs.md)."
)
_CHECKOUT_COMPILER = Path(__file__).resolve().parents[2] / "tools" / "solc"
Folder = Annotated[Path, typer.Argument(help="Folder of the proof artefact.", show_default=False)]


@app.command("prove-setup")
def prove_setup(
    source: Annotated[Path, typer.Argument(help="A .onnx file, or a TorchScript .pt file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write; replaced when it holds an artefact.")],
    name: Annotated[str | None, typer.Option(help="Name for people.", show_default="the file's")] = None,
    labels: Annotated[str, typer.Option(help="Names of the outputs, with commas.")] = "",
    inputs: Annotated[int | None, typer.Option(help="Numbers that a TorchScript model takes, as one row.")] = None,
    input_form: Annotated[
        str, typer.Option(help="public, or hashed: only its hash on chain; guesses can be checked.")
    ] = ("public"),
    weights: Annotated[
        str, typer.Option(help="fixed (public), or committed: hidden, their hash on chain; many proofs tell.")
    ] = ("fixed"),
    input_scale: Annotated[int, typer.Option(help="Fraction bits of an input.")] = 0,
    weight_scale: Annotated[int, typer.Option(help="Fraction bits of a weight.")] = 8,
    columns: Annotated[int, typer.Option(help="More: faster proofs, dearer verification.", min=1, max=8)] = 1,
    base: Annotated[int, typer.Option(help="Base in which numbers are taken apart.", min=2)] = 512,
    legs: Annotated[int, typer.Option(help="Digits of it: numbers are below base^legs.", min=1)] = 3,
    max_seconds: Annotated[float, typer.Option(help="Longest that a proof may take here; else refused.")] = 60.0,
    memory: Annotated[int, typer.Option(help="MiB that the prover may use.", min=256)] = 4096,
    setup_seconds: Annotated[float, typer.Option(help="Longest that one step of the set-up may take.")] = 600.0,
    srs: Annotated[
        Path | None, typer.Option(help="A ceremony's powers of tau. Left out: UNSAFE ones are made.")
    ] = None,
    srs_sha256: Annotated[str | None, typer.Option(help="The hash that the ceremony published of it.")] = None,
    solc: Annotated[
        Path | None, typer.Option(help="Solidity compiler.", show_default="ASSAY_SOLC, else the checkout's tools/solc")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the model.")] = "unstated",
    estimate_only: Annotated[bool, typer.Option("--estimate", help="Only say what proving would take.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a small model into a proof artefact: circuit, keys, verifier contract, bound to a modelId.

    Takes no chain: `assay model prove-register` deploys and registers the verifier.

    Examples:

        assay model prove-setup digits.onnx --out digits --labels 0,1,2,3,4,5,6,7,8,9

        assay model prove-setup digits.onnx --out digits --estimate

        assay model prove-setup digits.onnx --out digits --srs kzg11.srs --srs-sha256 1f2e…
    """
    from market.proofs.ezkl_backend import EzklBackend
    from market.proofs.setup import SetupWish, estimate, set_up

    wish = SetupWish(
        source=source,
        name=name or source.stem,
        solc=solc or Path(os.environ.get("ASSAY_SOLC", _CHECKOUT_COMPILER)),
        options=CircuitOptions(
            input_scale=input_scale,
            weight_scale=weight_scale,
            form=_choice(InputForm, input_form, "--input-form"),
            weights=_choice(WeightForm, weights, "--weights"),
            decomposition_base=base,
            decomposition_legs=legs,
            columns=columns,
        ),
        max_seconds=max_seconds,
        ceremony=_ceremony(srs, srs_sha256),
        inputs=inputs,
        labels=[label for label in labels.split(",") if label],
        licence=licence,
    )
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if wish.options.weights == WeightForm.COMMITTED and not estimate_only:
        console.print(f"[bold yellow]{HIDDEN}[/]")
    backend = EzklBackend(Limits(memory * MIB, setup_seconds))
    if estimate_only:
        _print_estimate(wish, estimate(wish, backend).__dict__, as_json)
        return
    if wish.ceremony is None:
        console.print(f"[bold red]{UNSAFE}[/]")
    with console.status("estimating …") as status:
        made = set_up(wish, out, backend, lambda text: status.update(f"{text} …"))
    _print(made, as_json)


@app.command("prove-show")
def prove_show(path: Folder, as_json: Json = False) -> None:
    """Describe a proof artefact, after checking every file and its modelId.

    Example: assay model prove-show build/proofs/digits --json
    """
    _print(load_artefact(path), as_json)


@app.command("prove-register")
def prove_register(
    path: Folder,
    rpc: Annotated[str, typer.Option(help="RPC endpoint.", envvar="ASSAY_RPC")],
    deployment: Annotated[Path, typer.Option(help="Manifest of the market.", envvar="ASSAY_DEPLOYMENT")],
    keystore: Annotated[Path, typer.Option(help="Key that pays the gas.", envvar="ASSAY_KEYSTORE")],
    password_file: Annotated[
        Path | None, typer.Option(help="File with its password; else ASSAY_PASSWORD.", envvar="ASSAY_PASSWORD_FILE")
    ] = None,
    srs_sha256: Annotated[
        str | None, typer.Option(help="The hash that the ceremony published; a real chain needs it.")
    ] = None,
    allow_unsafe: Annotated[
        bool, typer.Option("--allow-unsafe", help="On a real chain with powers of tau that nobody vouches for.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish the model, deploy its verifier and register it. Sends only what is missing; anybody may.

    Example: assay model prove-register digits --rpc http://127.0.0.1:8545 --deployment market.json --keystore key.json
    """
    from market.chain import Chain
    from market.config import Home, queue_path
    from market.deployment import Contracts, Deployment
    from market.keystore import load_account, read_password
    from market.proofs.registration import register
    from market.transactions import Transactions

    artefact = load_artefact(path)
    manifest = Deployment.load(deployment)
    chain = Chain(rpc, expected_chain_id=manifest.chain_id)
    manifest.check(chain)
    password = read_password(password_file=password_file, environment=os.environ)
    account = load_account(keystore, password)
    queue = queue_path(Home.of(os.environ).path, chain.chain_id, account.address)
    queue.parent.mkdir(parents=True, exist_ok=True)
    with Transactions(chain, account, queue) as transactions:
        contracts = Contracts.of(chain, manifest)
        done = register(artefact, contracts, transactions, srs_sha256=srs_sha256, allow_unsafe=allow_unsafe)
    if as_json:
        typer.echo(
            json.dumps({"modelId": "0x" + artefact.model_id.hex(), "verifier": done.verifier, "sent": done.sent})
        )
        return
    typer.echo(
        f"model 0x{artefact.model_id.hex()}, verifier {done.verifier}, sent: {', '.join(done.sent) or 'nothing'}"
    )


def _choice(kind: Any, text: str, option: str) -> Any:
    try:
        return kind[text.upper()]
    except KeyError:
        names = ", ".join(member.name.lower() for member in kind)
        raise ConfigError(f"{option} takes {names}, not “{text[:40]}”.") from None


def _ceremony(path: Path | None, sha256: str | None) -> Ceremony | None:
    if (path is None) != (sha256 is None):
        raise ConfigError(
            "A ceremony's file and its hash go together.",
            hint="Give --srs and --srs-sha256, the hash from the ceremony itself.",
        )
    return None if path is None or sha256 is None else Ceremony(path, sha256)


def _print_estimate(wish: SetupWish, numbers: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(numbers))
        return
    typer.echo(
        f"{wish.name}: 2^{numbers['log_rows']} rows, about {numbers['cpu_seconds']:,.1f} CPU seconds a proof and "
        f"{numbers['memory'] // MIB:,} MiB"
    )


def _print(made: ProofArtefact, as_json: bool) -> None:
    manifest = made.manifest
    if as_json:
        typer.echo(json.dumps({"path": str(made.folder), **manifest}))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"[bold]{made.name}[/], {manifest['licence']}")
    console.print(f"model id  {manifest['modelId']}")
    console.print(f"{made.program.inputs} ids in ({manifest['inputForm']}), {made.program.outputs} out")
    console.print(f"weights {manifest['weights']}, 2^{manifest['srs']['logRows']} rows")
    measured = manifest["measured"]
    console.print(f"a proof took {measured['proveSeconds']} s and {measured['peakMemory'] // MIB:,} MiB")
    if made.is_unsafe:
        console.print(f"[bold red]{UNSAFE}[/]")
