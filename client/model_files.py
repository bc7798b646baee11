"""Text for a model that is known by its hashes: tokenizer and template from a local pack, the cache, or a provider.

Both files are checked against the model's tokenizerHash and templateHash, wherever they come from, so a provider cannot
slip in another template. Stop tokens and limits are not part of the model's hash: a local pack is believed; of
providers, what most of them say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio

from client.errors import UnsafeEndpoint
from client.provider_http import ProviderHttp
from market.api import ModelBody
from market.errors import AssayError, HashMismatch, MarketError, WireError
from market.files import write_atomically
from market.hashing import keccak256
from market.models.text import Text
from market.types import Model

TOKENIZER, TEMPLATE = "tokenizer.json", "template.jinja"
ASKED_AT_ONCE = 8  # providers


class ModelFilesUnavailable(MarketError):
    """No local pack and no provider gave the model's tokenizer or template."""


@dataclass(frozen=True)
class Limits:
    """What a pack says of itself: most tokens of prompt and answer together, vocabulary size, tokens that end it."""

    context: int
    vocabulary: int
    stop_tokens: tuple[int, ...]


@dataclass(frozen=True)
class ModelText:
    """A model's text side."""

    text: Text
    limits: Limits


class ModelFiles:
    """Finds and keeps the text side of models.

    Args:
        cache: folder for what providers served; files are named by their hash.
        packs: folders of local packs.
    """

    def __init__(self, http: ProviderHttp, cache: Path, packs: Sequence[Path] = ()) -> None:
        self._http = http
        self._cache = cache
        self._packs = tuple(packs)
        self._loaded: dict[bytes, ModelText] = {}

    async def load(self, roots: Model, endpoints: Sequence[str]) -> ModelText:
        """The text side of a model.

        Args:
            endpoints: providers that offer it, asked in this order where nothing is known locally.

        Raises:
            ModelFilesUnavailable: nobody has the files, or nobody has the right ones.
        """
        model_id = roots.model_id
        if model_id not in self._loaded:
            found = self._from_pack(roots) or self._from_cache(roots) or await self._from_providers(roots, endpoints)
            self._loaded[model_id] = found
        return self._loaded[model_id]

    def _from_pack(self, roots: Model) -> ModelText | None:
        for folder in self._packs:
            try:
                manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
                if manifest["modelId"].lower() != "0x" + roots.model_id.hex():
                    continue
                limits = manifest["limits"]
                found = Limits(int(limits["context"]), int(limits["vocabulary"]), tuple(limits["stopTokens"]))
                tokenizer, template = (folder / TOKENIZER).read_bytes(), (folder / TEMPLATE).read_bytes()
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            return _checked(roots, tokenizer, template, found, f"the pack in {folder}")
        return None

    def _from_cache(self, roots: Model) -> ModelText | None:
        try:
            limits = json.loads(self._path(roots.model_id).read_text(encoding="utf-8"))
            found = Limits(limits["context"], limits["vocabulary"], tuple(limits["stop_tokens"]))
            tokenizer = self._path(roots.tokenizer_hash).read_bytes()
            return _checked(roots, tokenizer, self._path(roots.template_hash).read_bytes(), found, "the cache")
        except (OSError, ValueError, KeyError, TypeError, HashMismatch):
            return None  # damaged or not there: fetched again

    async def _from_providers(self, roots: Model, endpoints: Sequence[str]) -> ModelText:
        """From the first few that can give it: a crowd of dead or lying providers does not hide the others."""
        problem = "no provider says what its limits are" if endpoints else "nobody offers the model"
        for start in range(0, len(endpoints), ASKED_AT_ONCE):
            said = await self._limits(roots.model_id, endpoints[start : start + ASKED_AT_ONCE])
            for endpoint in said:
                try:
                    with anyio.fail_after(20.0):
                        tokenizer = await self._http.file(endpoint, roots.model_id, TOKENIZER)
                        template = await self._http.file(endpoint, roots.model_id, TEMPLATE)
                    limits = Counter(said.values()).most_common(1)[0][0]
                    found = _checked(roots, tokenizer, template, limits, endpoint)
                except (AssayError, TimeoutError) as error:
                    problem = f"{endpoint}: {error}"
                    continue
                self._keep(roots, tokenizer, template, limits)
                return found
        raise ModelFilesUnavailable(
            f"The model's tokenizer and template could not be had: {problem}.",
            hint="Nothing was spent. Name a local pack with --pack, or try later.",
        )

    async def _limits(self, model_id: bytes, endpoints: Sequence[str]) -> dict[str, Limits]:
        """What those of the endpoints that answer say; as many requests at once."""
        said: dict[str, Limits] = {}

        async def ask(endpoint: str) -> None:
            try:
                with anyio.fail_after(5.0):
                    served = await self._http.models(endpoint)
            except (WireError, UnsafeEndpoint, TimeoutError):
                return
            said.update((endpoint, _limits(model)) for model in served if model.model_id == model_id)

        async with anyio.create_task_group() as group:
            for endpoint in endpoints:
                group.start_soon(ask, endpoint)
        return said

    def _path(self, name: bytes) -> Path:
        return self._cache / name.hex()

    def _keep(self, roots: Model, tokenizer: bytes, template: bytes, limits: Limits) -> None:
        try:
            write_atomically(self._path(roots.tokenizer_hash), tokenizer, mode=0o644)
            write_atomically(self._path(roots.template_hash), template, mode=0o644)
            write_atomically(self._path(roots.model_id), json.dumps(asdict(limits)).encode(), mode=0o644)
        except OSError:
            return  # a cache that cannot be written costs a download next time


def _limits(model: ModelBody) -> Limits:
    return Limits(model.context, model.vocabulary, tuple(model.stop_tokens))


def _checked(roots: Model, tokenizer: bytes, template: bytes, limits: Limits, source: str) -> ModelText:
    for name, content, expected in (
        (TOKENIZER, tokenizer, roots.tokenizer_hash),
        (TEMPLATE, template, roots.template_hash),
    ):
        if keccak256(content) != expected:
            raise HashMismatch(
                f"{name} from {source} is not the one the model was published with.",
                hint="Nothing was spent. Verify the pack, or choose other providers.",
                expected="0x" + expected.hex(),
                got="0x" + keccak256(content).hex(),
            )
    return ModelText(Text(tokenizer, template), limits)
