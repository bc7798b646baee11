"""Plain words for every custom error of the shipped contracts: (message with {arguments}, what to do next).

Amounts are base units, times unix seconds, as on chain. A test checks that every error of every ABI has an entry
whose placeholders are its arguments.
"""

from __future__ import annotations

from market.dispute_messages import DISPUTE_MESSAGES
from market.proof_messages import PROOF_MESSAGES

ASK_AGAIN = "Read the state again; somebody may have acted in between."
_OPERATOR = "This is a mistake in the deployment; tell its operator."
_NEW_QUOTE = "Nothing was posted. Ask the provider for a new quote."

MESSAGES: dict[str, tuple[str, str]] = {
    # --- Vault
    "AlreadyDeprecated": ("The vault is deprecated already.", ""),
    "AlreadySealed": ("The vault's modules are fixed already and never change.", ""),
    "CapExceeded": (
        "The vault takes at most {cap} of token {token} in all; this deposit would make it {total}.",
        "Deposit less, or wait until others withdraw.",
    ),
    "CapTooLarge": (
        "A cap of {cap} of stake token {token} is above {maximum}, the most that can be counted.",
        "Nothing was deployed. Choose a lower cap.",
    ),
    "DuplicateToken": ("Token {token} is listed twice.", "List each token once."),
    "ExitNotReady": (
        "The stake of {owner} is still unbonding, until {readyAt} (unix seconds).",
        "Nothing is lost; finish after that time.",
    ),
    "InsufficientBonds": ("{owner} has {has} in bonds, and a module tried to let {needs} go.", _OPERATOR),
    "InsufficientCredit": (
        "{owner} has {has} of token {token} as credit or allowance, and {needs} are needed.",
        "Deposit more, or approve the vault for the difference.",
    ),
    "InsufficientHeld": ("Module {module} holds {has} of token {token} and tried to move {needs}.", _OPERATOR),
    "InsufficientStake": (
        "{owner} has {has} of free stake, and {needs} are needed.",
        "Stake more, or wait until bonds of earlier jobs are released.",
    ),
    "MalformedPermit": ("A permit takes {expected} bytes, not {length}.", "Sign it again with Token.permit."),
    "NotGuardian": ("{caller} is not the vault's guardian.", "Use the key that deployed the vault."),
    "NotModule": ("{caller} is no module of the vault.", "Only Jobs and Disputes move money that they hold."),
    "NotSealed": ("The vault's modules are not fixed yet, so it takes no money.", "Wait for the deployment to end."),
    "NothingExiting": ("No stake of {owner} is on its way out.", "Request the unstake first."),
    "ReentrancyGuardReentrantCall": (
        "The vault was called while it was calling a token.",
        "Call it from an account or contract that the token does not call.",
    ),
    "SafeERC20FailedOperation": (
        "Token {token} refused the transfer.",
        "Check the balance and the allowance to the vault; no money moved.",
    ),
    "TokenAmountMismatch": (
        "Token {token} delivered {received} instead of {expected}; the vault takes plain ERC-20 only.",
        "Use a token without fees on transfer.",
    ),
    "TokenNotAllowed": ("The vault does not take token {token}.", "Use the vault's stake token."),
    "TooManyTokens": ("A vault lists at most {limit} tokens, not {count}.", "List fewer."),
    "UnbondingTooLong": ("An unbonding window of {window} s is above the limit of {maximum} s.", "Shorten it."),
    "VaultDeprecated": (
        "The vault is deprecated: it takes no new money and no new jobs.",
        "Withdraw and move to its successor.",
    ),
    "ZeroAddress": ("The zero address cannot own anything here.", "Name a real account."),
    "ZeroAmount": ("The amount is zero.", "Name an amount above zero."),
    # --- Registry
    "BadOffer": ("The offer's field {field} is zero or out of range.", "Correct the offer."),
    "EndpointLength": ("An endpoint has 1 to {limit} bytes, not {length}.", "Shorten the URL."),
    "ListBusy": (
        "The end of the drawable list of model {modelId} changed a short while ago and rests until block {readyBlock}.",
        "Nothing was changed; set the offer again then, or without a maximum bond at once.",
    ),
    "ModelAlreadyPublished": ("Model {modelId} is published already.", "Nothing is left to do: offer it."),
    "NotListed": ("{provider} is not on the drawable list of model {modelId}.", "Nothing is left to prune."),
    "StakeCapTooSmall": ("A stake cap of {cap} is below {minimum}.", "Choose a larger one."),
    "StakeTooSmall": (
        "{provider} has {staked} of stake, bonds included; being drawn takes {minimum}.",
        "Nothing was changed. Stake more, or set the offer without a maximum bond: quotes need no minimum.",
    ),
    "StillDrawable": ("{provider} can still be drawn for model {modelId}.", "Nothing is to be pruned."),
    "TextTooLong": ("The text has {length} bytes; the limit is {limit}.", "Shorten it."),
    "UnknownModel": ("Nobody published model {modelId}.", "Publish it first, or check the id."),
    "UnknownOffer": ("{provider} does not offer model {modelId}.", "Refresh the index."),
    "UnknownProvider": ("{provider} is not a registered provider.", "Register it first."),
    # --- Jobs: post
    "BadDraw": (
        "A job with {draw} drawn replicas takes exactly one set of terms, not {quotes}.",
        "Nothing was posted. Give one quote without provider and signature.",
    ),
    "BadQuorum": (
        "{quorum} equal answers of {replicas} replicas is no quorum this market sells.",
        "Use 1 of 1 with mode none, or a majority of 2 or more with mode quorum.",
    ),
    "BadSampler": (
        "Sampler {sampler} cannot be used with these sampling fields in a job.",
        "Use sampler 0 (greedy) with all sampling fields 0, sampler 1, or sampler 2 with seed 0: the chain gives it.",
    ),
    "BadSignature": ("The quote is not signed by {provider}.", _NEW_QUOTE),
    "BondTooSmall": (
        "The quote of {provider} locks a bond of {bond}; its price calls for {needs}.",
        _NEW_QUOTE,
    ),
    "DrawFeeTooSmall": (
        "The terms have a kill fee of {killFee}; a drawn job needs {minimum} or more, a tenth of its price.",
        "Nothing was posted. Raise the kill fee.",
    ),
    "DuplicateProvider": ("{provider} was chosen twice.", "Choose distinct providers."),
    "EmptyInput": ("The prompt has no tokens.", "Send a prompt."),
    "EscrowAboveCap": (
        "The job would take an escrow of {escrow}; your own limit is {cap}.",
        "Raise the limit, or choose cheaper quotes.",
    ),
    "InputFillerMismatch": (
        "The inline input of {inputTokens} tokens is not filled up with 0xff.",
        "Pack the ids with market.hashing.pack_tokens.",
    ),
    "InputLengthMismatch": (
        "The inline input has {got} bytes; the request's tokens take {expected}.",
        "Pack it again.",
    ),
    "InputMismatch": (
        "The inline input hashes to {got}, the request says {expected}.",
        "Build the request from the same ids.",
    ),
    "KillFeeTooLarge": (
        "The quote of {provider} has a kill fee of {killFee}, above its price of {price}.",
        _NEW_QUOTE,
    ),
    "MissFeeOutOfRange": (
        "The quote of {provider} has a miss fee of {missFee}; it must lie in {price} (price) … {bond} (bond).",
        _NEW_QUOTE,
    ),
    "ModeNotBuilt": (
        "Verification mode {mode} cannot be bought yet.",
        "Use mode none or quorum.",
    ),
    "NoOutputAsked": ("The request asks for no output tokens.", "Ask for at least one."),
    "QuoteExpired": (
        "The quote of {provider} was valid until {validUntil}; the chain's time is {timestamp}.",
        _NEW_QUOTE,
    ),
    "QuoteLimit": (
        "The quote of {provider} allows {field} = {has}; the request needs {needs}.",
        _NEW_QUOTE,
    ),
    "QuoteMismatch": ("The quote of {provider} is for another {field}.", _NEW_QUOTE),
    "QuoteUsed": ("The quote of {provider} was used already ({quoteDigest}).", _NEW_QUOTE),
    "WindowOutOfRange": (
        "A window of {window} s is outside {minimum} … {maximum} s.",
        "Choose a window in that range.",
    ),
    "WrongToken": (
        "The quote is in token {token}; jobs are paid in {expected}.",
        _NEW_QUOTE,
    ),
    # --- Jobs: the rest
    "AlreadyDemanded": (
        "The output of {provider} in job {jobId} was demanded already.",
        "Nothing was paid. Watch for OutputPublished, or slash the bond after the demand's deadline.",
    ),
    "AlreadyCommitted": (
        "{committed} replicas committed to job {jobId} already, so it can no longer be cancelled.",
        "Wait for the answer, or for the deadlines: the escrow is safe.",
    ),
    "BadOutput": (
        "An output of {outputTokens} tokens with finish {finish} does not fit job {jobId}.",
        "Finish is 1 (stop token) or 2 (length, with every token asked for).",
    ),
    "BadReveal": (
        "What {provider} reveals to job {jobId} hashes to {got}; it committed to {expected}.",
        "Reveal the output and the salt that were journalled with the commitment.",
    ),
    "DemandOpen": (
        "{provider} withholds an output of job {jobId} that was to be published until {deadline}.",
        "The bond is not released; anybody may slash it after that time.",
    ),
    "DrawNotReady": (
        "The replicas of job {jobId} are drawn from the hash of block {drawBlock}, which is not over yet.",
        "Nothing is lost; send it again in the next block.",
    ),
    "EmptyCommitment": ("The commitment to job {jobId} is zero.", "Commit to the digest of an output."),
    "EvidenceMismatch": ("The evidence hashes to {got}, the job's request to {expected}.", "Send the job's request."),
    "LateAndNotAgreed": (
        "{provider} reveals to job {jobId} after the deadline, and not the agreed output.",
        "Nothing can be earned on this job any more.",
    ),
    "NotArbiter": ("{caller} is not the arbiter.", "Open a dispute through the arbiter's contract."),
    "NotSeededByChain": (
        "Job {jobId} has no seed of the chain: its answer is a function of its request.",
        "Nothing is to be done.",
    ),
    "SeedNotReady": (
        "The seed of job {jobId} comes from the hash of block {seedBlock}, which is not over yet.",
        "Nothing is lost; send it again in the next block.",
    ),
    "SeedOutOfReach": (
        "The seed of job {jobId} comes from the hash of block {seedBlock}, which no contract can read any more.",
        "Nobody can commit, and nobody loses a bond. Cancel the job, or settle it after its commit deadline.",
    ),
    "NotClient": ("{caller} did not post job {jobId}.", "Use the key that posted it."),
    "NoDemandFee": ("A demand would cost nothing, so anybody could trouble any provider.", "Choose a fee above zero."),
    "NotDemanded": (
        "Nobody waits for the output of {provider} in job {jobId}.",
        "Nothing is to be done: it was never demanded, or that is over.",
    ),
    "NotReplica": ("{caller} is no replica of job {jobId}.", "Nothing is to be done for this job with this key."),
    "NothingOwed": (
        "{provider} revealed no output of job {jobId}, so it owes none.",
        "Nothing was paid. Demand the output of a replica that revealed one.",
    ),
    "OutputMalformed": (
        "{length} bytes are not the {outputTokens} tokens of the output in their canonical form.",
        "Nothing was published; pack the ids with market.hashing.pack_tokens.",
    ),
    "OutputMismatch": (
        "The ids hash to the output {got}; {expected} was revealed.",
        "Nothing was published; publish the ids that were journalled with the commitment.",
    ),
    "ShareOutOfRange": (
        "A challenger's share of {shareBps} basis points is outside {minimum} … {maximum}.",
        "Choose a share in that range.",
    ),
    "TooEarly": (
        "Job {jobId} allows this from {opensAt}; the chain's time is {timestamp}.",
        "Nothing is lost; try again after that time.",
    ),
    "TooLate": (
        "Job {jobId} allowed this until {deadline}; the chain's time is {timestamp}.",
        "Settle the job: every amount leaves by its published deadline.",
    ),
    "UnbondingTooShort": (
        "The vault's unbonding window of {window} s is shorter than {minimum} s, so an exit could outrun a dispute.",
        "Deploy the vault with a longer window.",
    ),
    "UnknownJob": ("There is no job {jobId} in this contract.", "Check the id, the chain and the deployment."),
    "WrongBondState": ("The bond of {provider} in job {jobId} is {has}, not {needs}.", ASK_AGAIN),
    "WrongReplicaState": ("Replica {provider} of job {jobId} is {has}, not {needs}.", ASK_AGAIN),
    "WrongState": ("Job {jobId} is {has}, not {needs}.", ASK_AGAIN),
    # --- the test token, and OpenZeppelin by way of it and of EIP-712 (https://docs.openzeppelin.com/contracts/5.x/)
    "ECDSAInvalidSignature": ("The signature recovers to no address.", "Sign again."),
    "ECDSAInvalidSignatureLength": ("A signature has 65 bytes, not {length}.", "Sign again."),
    "ECDSAInvalidSignatureS": ("The signature is malleable (high s: {s}).", "Sign again with low s."),
    "ERC20InsufficientAllowance": (
        "{spender} may move {allowance} of your tokens, and {needed} are needed.",
        "Approve the difference.",
    ),
    "ERC20InsufficientBalance": ("{sender} has {balance} tokens, and {needed} are needed.", "Add tokens."),
    "ERC20InvalidApprover": ("{approver} cannot approve.", "Use a real account."),
    "ERC20InvalidReceiver": ("{receiver} cannot receive tokens.", "Use a real account."),
    "ERC20InvalidSender": ("{sender} cannot send tokens.", "Use a real account."),
    "ERC20InvalidSpender": ("{spender} cannot be a spender.", "Use a real account."),
    "ERC2612ExpiredSignature": ("The permit expired at {deadline}.", "Sign a new permit."),
    "ERC2612InvalidSigner": ("The permit is signed by {signer}, not by {owner}.", "Sign with the owner's key."),
    "FaucetLimit": (
        "One call of the faucet gives at most {limit} base units, not {amount}.",
        "Ask for less, or several times.",
    ),
    "InvalidAccountNonce": (
        "The permit's nonce is not {currentNonce}, the next one of {account}.",
        "Sign a new permit.",
    ),
    "InvalidShortString": ("A short string is malformed.", _OPERATOR),
    "NotDevelopmentChain": (
        "The test token is minted on development chains only; this is chain {chainId}.",
        "Use its faucet: `assay chain faucet`.",
    ),
    "StringTooLong": ("The string {str} is longer than 31 bytes.", "Shorten it."),
    **DISPUTE_MESSAGES,
    **PROOF_MESSAGES,
}

PANICS: dict[int, str] = {
    0x01: "an assertion failed",
    0x11: "an arithmetic operation overflowed",
    0x12: "division by zero",
    0x21: "a value is outside its enumeration",
    0x22: "a stored byte array is malformed",
    0x31: "pop from an empty array",
    0x32: "an index is out of range",
    0x41: "too much memory was asked for",
    0x51: "an uninitialised function was called",
}
"""Panic codes of Solidity (https://docs.soliditylang.org/en/latest/control-structures.html#panic-via-assert)."""
