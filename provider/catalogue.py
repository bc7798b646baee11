"""The models this provider serves: their packs' public parts, and how text becomes ids in each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from market.errors import ConfigError
from market.inference.engine import Engine, load_engine
from market.models.pack import Pack, load_pack_beside
from market.models.text import Text
from market.types import Model
from provider.config import ProviderConfig
from provider.pricing import Product


@dataclass(frozen=True)
class Served:
    """One model on sale."""

    product: Product
    roots: Model
    stop_tokens: tuple[int, ...]
    tokenizer: bytes  # tokenizer.json
    template: bytes  # template.jinja
    text: Text
    pack: Pack

    @classmethod
    def of(cls, pack: Pack, config: ProviderConfig, indisputable: str | None = None) -> Served:
        tokenizer, template = pack.read_file("tokenizer.json"), pack.read_file("template.jinja")
        product = Product(
            model_id=pack.model_id,
            name=pack.name,
            context=pack.limits.context,
            vocabulary=pack.limits.vocabulary,
            prices=config.prices_of(pack.model_id, pack.name),
            uri=config.uri_of(pack.model_id, pack.name),
            indisputable=indisputable,
        )
        return cls(
            product=product,
            roots=pack.roots,
            stop_tokens=pack.limits.stop_tokens,
            tokenizer=tokenizer,
            template=template,
            text=Text(tokenizer, template),
            pack=pack,
        )


Catalogue = Mapping[bytes, Served]


def load_catalogue(
    paths: Iterable[Path], config: ProviderConfig, obstacle: Callable[[Pack], str | None] = lambda _: None
) -> tuple[Catalogue, dict[bytes, Engine]]:
    """Every pack and an engine for each, by modelId. A pack's files are checked while its engine tests its fast
    arithmetic against an exact one; neither is returned before both are done.

    Args:
        obstacle: why a model's answers cannot be sold as OPTIMISTIC, if they cannot (provider.judged.obstacle).

    Raises:
        PackError: a file of a pack is missing or does not have the sha256 its manifest states; it is named.
        ConfigError: two packs hold the same model.
        InferenceError: this machine computes wrongly, or lacks the device or the kernels.
    """
    catalogue: dict[bytes, Served] = {}
    engines: dict[bytes, Engine] = {}
    kernels = None if config.kernels == "auto" else config.kernels

    def serve(pack: Pack) -> tuple[Served, Engine]:
        if pack.model_id in catalogue:
            raise ConfigError(
                f"{pack.path} and {catalogue[pack.model_id].pack.path} hold the same model 0x{pack.model_id.hex()}.",
                hint="Name each model once in `packs`.",
            )
        return Served.of(pack, config, obstacle(pack)), load_engine(pack, config.device, config.threads, kernels)

    for path in paths:
        pack, made = load_pack_beside(path, serve)
        catalogue[pack.model_id], engines[pack.model_id] = made
    return catalogue, engines
