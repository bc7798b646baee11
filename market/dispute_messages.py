"""Plain words for the custom errors of disputes and their judge, in the form of market.revert_messages."""

from __future__ import annotations

_ASK_AGAIN = "Read the dispute again; somebody may have acted in between."
_OPENING = "Nothing was decided. Open the step's own leaves, under the root that the provider gave."
_NOT_SENT = "Nothing was paid. Compute the call from the dispute's events."

DISPUTE_MESSAGES: dict[str, tuple[str, str]] = {
    # --- Jobs, about what disputes are for
    "NotJudged": (
        "Model {modelId} with sampler {sampler} cannot be judged, so it is not sold as OPTIMISTIC.",
        "Nothing was posted. Have its program and tables accepted, choose greedy sampling, or buy it in another mode.",
    ),
    # --- Disputes
    "AlreadyAnswered": ("Node ({depth}, {index}) of dispute {disputeId} was answered.", _ASK_AGAIN),
    "AlreadyDisputed": (
        "This answer is or was disputed already ({disputeId}).",
        "Nothing was paid. While that dispute is open, everybody can join it.",
    ),
    "NoSeed": (
        "The request takes its seed from the chain, and {subject} has none for {subjectId}.",
        "Nothing was paid. Nobody can compute this answer again, so nobody is judged for it.",
    ),
    "AlreadyRequested": (
        "Node ({depth}, {index}) of dispute {disputeId} was requested by somebody.",
        "Nothing was paid. Wait for its reply: it is there for everybody.",
    ),
    "BadPadding": (
        "The payload has something else than zeros behind its elements (dispute {disputeId}).",
        "Send it as the trace has it.",
    ),
    "BadPath": (
        "The path leads to {got}, the provider gave {expected} (dispute {disputeId}).",
        _NOT_SENT,
    ),
    "BadReply": (
        "The reply hashes to {got}, the node is {expected} (dispute {disputeId}).",
        "Nothing was answered. Build the trace again and reply before the deadline.",
    ),
    "BadReplyLength": (
        "The reply has {got} parts or bytes, not {expected} (dispute {disputeId}).",
        "Nothing was answered. Show as many levels as the request says, or the whole payload of a leaf.",
    ),
    "ClaimMismatch": (
        "The claim hashes to {got}, that of dispute {disputeId} to {expected}.",
        "Take the claim from the event Disputed.",
    ),
    "DisputeEndOutOfRange": (
        "The subject lets this answer be disputed until {disputeEnd}; that must lie in {minimum} … {maximum}.",
        "Nothing was paid. The window is over, or the subject is not to be trusted.",
    ),
    "FinishNotJudged": (
        "An answer with finish {finish} came to no end that could be judged.",
        "Nothing was paid. Only answers that ended with a stop token (1) or at their length (2) are disputed.",
    ),
    "HashMismatch": (
        "The {field} given hashes to {got}; the answer that is disputed has {expected}.",
        "Nothing was paid. Give request, model, output and ids of that answer.",
    ),
    "IdsMalformed": (
        "{length} bytes are no whole words of eight ids.",
        "Pack them with market.hashing.pack_tokens.",
    ),
    "NoContradiction": (
        "The evidence shows no other output for the same request (dispute {disputeId}).",
        "Nothing was decided.",
    ),
    "NoReplyFee": ("A reply would cost nothing, so anybody could trouble any provider.", "Choose fees above zero."),
    "NoSuchPlace": ("No tree has a node ({depth}, {index}) (dispute {disputeId}).", _NOT_SENT),
    "NodeInside": (
        "Node ({depth}, {index}) is part of the program (dispute {disputeId}).",
        "Nothing was decided. Request it, and prove an element wrong.",
    ),
    "NodeOutside": (
        "Node ({depth}, {index}) is not part of the program (dispute {disputeId}).",
        "Nothing was paid. If it is not EMPTY, proveOutside ends the dispute at once.",
    ),
    "NotAnswered": (
        "Node ({depth}, {index}) of dispute {disputeId} was not answered yet.",
        "Nothing was paid. Wait for its reply, or for its deadline.",
    ),
    "NotProvider": ("{caller} is not the provider in dispute {disputeId}.", "Only its key gives the root."),
    "NotRequested": ("Nobody requested node ({depth}, {index}) of dispute {disputeId}.", _ASK_AGAIN),
    "NotYet": (
        "Dispute {disputeId} allows this from {opensAt}; the chain's time is {timestamp}.",
        "Nothing is lost; try again after that time.",
    ),
    "NothingToRefund": (
        "{payer} has nothing to get back from dispute {disputeId}.",
        "Nothing is to be done: it prepaid nothing, or got it back.",
    ),
    "NothingWrong": (
        "What is accused in dispute {disputeId} is right.",
        "Nothing was decided and nothing paid but gas. Compute the step again.",
    ),
    "PastDeadline": (
        "Dispute {disputeId} allowed this until {deadline}; the chain's time is {timestamp}.",
        "What is open can still end: missed, close or expire.",
    ),
    "ProgramNotAccepted": (
        "The judge does not know program {programRoot}.",
        "Nothing was paid. Anybody can have it accepted (acceptProgram), if it keeps the limits.",
    ),
    "PromptWithoutTrace": (
        "The request has no trace: its {reason} does not fit the program.",
        "Nothing was paid. Such an answer cannot be judged.",
    ),
    "ReplyWindowOutOfRange": (
        "A reply window of {window} s is outside {minimum} … {maximum} s.",
        "Nothing was deployed. Choose one in that range.",
    ),
    "TablesNotAccepted": (
        "The judge does not know the tables {tablesRoot}.",
        "Nothing was paid. Anybody can have them accepted (acceptTables).",
    ),
    "TooManyRounds": (
        "A dispute about this answer would take {rounds} rounds, and {limit} fit into its time.",
        "Nothing was paid.",
    ),
    "Unanswered": (
        "{count} requests of dispute {disputeId} have no reply.",
        "Call missed for one of them: the provider is guilty.",
    ),
    "WrongDisputeState": ("Dispute {disputeId} is {has}, not {needs}.", _ASK_AGAIN),
    # --- Judge and steps
    "ElementOutside": ("Element {element} lies behind the {elements} of its leaf.", _OPENING),
    "HeaderMismatch": ("A weight leaf has header {actual}, not {expected}: it is of another row.", _OPENING),
    "IdMismatch": ("The output has id {actual} at that place, not {expected}.", _OPENING),
    "InputsMiscounted": ("The step takes {expected} inputs, not {actual}.", _OPENING),
    "NoSuchNode": ("This trace has no node ({depth}, {index}).", _NOT_SENT),
    "NoTrace": (
        "No trace has {inputTokens} ids in and {outputTokens} out with this program.",
        "Such an answer cannot be judged.",
    ),
    "OpeningMismatch": ("An opening leads to {actual}, not to the root {root}.", _OPENING),
    "OutsideProgram": (
        "Row {row}, slot {slot} of operation {operation} in group {group} is not part of the program.",
        _OPENING,
    ),
    "PaddingNotZero": ("An opened payload has something else than zeros behind its elements.", _OPENING),
    "PathMisfit": ("An opening's path has {actual} hashes, not {expected}.", _OPENING),
    "PayloadMisfit": ("An opened payload has {actual} bytes, not {expected}.", _OPENING),
    "ProgramBeyondLimits": (
        "The program breaks a limit of docs/disputes.md, section 2 (D ≤ 1,536, F ≤ 2,048, …), so nobody judges it.",
        "Nothing was accepted. The model can be sold in other modes.",
    ),
    "SamplerWithoutStep": (
        "Sampler {sampler} with these settings has no step.",
        "Prove one of the numbers wrong.",
    ),
    "TablesMismatch": ("The path leads to the tables {actual}, not to {tablesRoot}.", "Nothing was accepted."),
    "UnknownProgram": ("The judge does not know program {programRoot}.", "Have it accepted first (acceptProgram)."),
    "WitnessOutsideRow": ("Witness {witness} lies behind the {length} elements of its row.", _OPENING),
    # --- OpenZeppelin's Multicall
    "AddressEmptyCode": ("There is no code at {target}.", "Check the addresses of the deployment."),
    "FailedCall": ("A call failed without saying why.", "Send the calls one by one to see which."),
}
