"""Plain words for the custom errors of proof mode; see market.revert_messages."""

from __future__ import annotations

_NOTHING_POSTED = "Nothing was posted."
_NOTHING_PAID = "Nothing was paid; the job stays open until its deadline."

PROOF_MESSAGES: dict[str, tuple[str, str]] = {
    "BadProgram": ("The shape of the model's proofs is out of range: {field}.", "Nothing was registered."),
    "MalformedProof": (
        "The proof for model {modelId} is not encoded as its verifier takes it.",
        f"{_NOTHING_PAID} Make the proof with the model's own artefact.",
    ),
    "ModelNotProvable": (
        "No verifier of model {modelId} is registered.",
        f"{_NOTHING_POSTED} Register it with `assay model prove-register`.",
    ),
    "NoCollateral": (
        "The quote of {provider} promises a {field}, which proof jobs do not have.",
        f"{_NOTHING_POSTED} Ask the provider for a new quote.",
    ),
    "NoVerifier": ("No verifier of model {modelId} is registered.", "Nothing was paid."),
    "NotAnId": (
        "The proof shows the number {instance}, which is no id.",
        f"{_NOTHING_PAID} The model's numbers must fit 32 bits; set it up with smaller scales.",
    ),
    "NotTheProver": (
        "Job {jobId} is {provider}'s to prove, not {caller}'s.",
        "Nothing was paid. Only the provider whose quote was accepted is paid for its proof.",
    ),
    "ProofJobNotOpen": ("Job {jobId} is {state}: it was settled or has expired.", "Nothing was done."),
    "ProofNotDue": (
        "Job {jobId} may still be proved until {proofDeadline} (unix seconds); it is {timestamp} now.",
        "Nothing was done. Take the escrow back after that time.",
    ),
    "ProofRefused": (
        "The verifier refuses the proof for job {jobId}.",
        f"{_NOTHING_PAID} Prove again with the model's own artefact.",
    ),
    "ProofTooLate": (
        "Job {jobId} could be proved until {proofDeadline} (unix seconds); it is {timestamp} now.",
        "Nothing was paid; the escrow goes back to the client.",
    ),
    "ProofWindowOutOfRange": (
        "A window of {window} s is outside of {minimum} to {maximum} s.",
        f"{_NOTHING_POSTED} Choose another window.",
    ),
    "RequestMismatch": (
        "Job {jobId} was posted with request {expected}, not {got}.",
        f"{_NOTHING_PAID} Settle with the request that was posted.",
    ),
    "ShapeMismatch": (
        "Model {modelId} has {expected} {field}, the request {got}.",
        f"{_NOTHING_POSTED} Make the request for this model.",
    ),
    "StatementMismatch": (
        "The proof is not about job {jobId}: its {field} differs.",
        f"{_NOTHING_PAID} Prove this job, with its own input, by its own model.",
    ),
    "UnknownProofJob": ("There is no proof job {jobId}.", "Check the id and the chain."),
    "VerifierAlreadyRegistered": ("Model {modelId} has its verifier already.", "Nothing was registered."),
    "VerifierMismatch": (
        "That is not the verifier of model {modelId}: its {field} is {got}, the model names {expected}.",
        "Nothing was registered. Register the verifier of the model's own artefact.",
    ),
}
