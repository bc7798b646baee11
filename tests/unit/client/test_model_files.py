from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from client.model_files import ModelFiles, ModelFilesUnavailable
from market.api import ModelBody, ModelsBody, OfferBody
from market.errors import HashMismatch
from market.models.pack import Pack, load_pack
from tests.unit.client.examples import TOKEN
from tests.unit.client.market_of_one import Answer, Street


@pytest.fixture(scope="module")
def pack(tiny_pack: Path) -> Pack:
    return load_pack(tiny_pack)


def serving(pack: Pack, *, stop_tokens: tuple[int, ...] = (2,), tokenizer: bytes | None = None) -> Answer:
    """A provider that serves the model's files, or others."""
    terms = OfferBody(
        token=TOKEN,
        base_fee=1,
        price_per_m_input=1,
        price_per_m_output=1,
        max_input_tokens=9,
        max_output_tokens=9,
        bond=1,
        kill_fee_bps=1,
        miss_fee_bps=1,
    )
    body = ModelBody(
        model_id=pack.model_id,
        name="tiny",
        context=64,
        vocabulary=300,
        stop_tokens=list(stop_tokens),
        roots=pack.roots,
        offer=terms,
        modes=[1],
    )
    files = {
        "/v1/models": ModelsBody(models=[body]).model_dump_json().encode(),
        f"/v1/models/0x{pack.model_id.hex()}/tokenizer.json": tokenizer or pack.read_file("tokenizer.json"),
        f"/v1/models/0x{pack.model_id.hex()}/template.jinja": pack.read_file("template.jinja"),
    }
    return lambda asked: httpx.Response(200, content=files[asked.url.path])


def urls(count: int) -> list[str]:
    return [f"http://127.0.0.1:{9000 + number}" for number in range(count)]


async def test_text_comes_from_a_local_pack_without_asking_anybody(pack: Pack, tmp_path: Path) -> None:
    street = Street({})
    found = await ModelFiles(street.http, tmp_path, [tmp_path / "none", pack.path]).load(pack.roots, urls(1))
    assert found.text.decode(found.text.encode("the cat")) == "the cat"
    assert not street.asked


async def test_text_is_fetched_checked_and_kept(pack: Pack, tmp_path: Path) -> None:
    street = Street({0: serving(pack)})
    found = await ModelFiles(street.http, tmp_path).load(pack.roots, urls(1))
    assert (found.limits.context, found.limits.stop_tokens) == (64, (2,))
    assert len(street.asked) == 3
    again = await ModelFiles(Street({}).http, tmp_path).load(pack.roots, [])
    assert again.limits == found.limits


async def test_text_with_another_hash_is_refused_and_the_next_provider_asked(pack: Pack, tmp_path: Path) -> None:
    forged = pack.read_file("tokenizer.json") + b" "
    street = Street({0: serving(pack, tokenizer=forged), 1: serving(pack)})
    assert await ModelFiles(street.http, tmp_path / "a").load(pack.roots, urls(2))
    with pytest.raises(ModelFilesUnavailable, match="not the one the model was published with"):
        await ModelFiles(Street({0: serving(pack, tokenizer=forged)}).http, tmp_path / "b").load(pack.roots, urls(1))


async def test_text_in_a_damaged_cache_is_fetched_again(pack: Pack, tmp_path: Path) -> None:
    await ModelFiles(Street({0: serving(pack)}).http, tmp_path).load(pack.roots, urls(1))
    (tmp_path / pack.roots.tokenizer_hash.hex()).write_bytes(b"{}")
    street = Street({0: serving(pack)})
    await ModelFiles(street.http, tmp_path).load(pack.roots, urls(1))
    assert street.asked


async def test_text_of_a_damaged_local_pack_is_refused_by_name(pack: Pack, tmp_path: Path) -> None:
    copy = tmp_path / "pack"
    shutil.copytree(pack.path, copy)
    (copy / "template.jinja").write_text("{{ messages }}")
    with pytest.raises(HashMismatch, match=r"template\.jinja from the pack"):
        await ModelFiles(Street({}).http, tmp_path, [copy]).load(pack.roots, [])


async def test_stop_tokens_are_what_most_providers_say(pack: Pack, tmp_path: Path) -> None:
    street = Street({0: serving(pack, stop_tokens=(7,)), 1: serving(pack), 2: serving(pack)})
    found = await ModelFiles(street.http, tmp_path).load(pack.roots, urls(3))
    assert found.limits.stop_tokens == (2,)


async def test_text_that_nobody_has_is_an_error_in_words(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesUnavailable, match="Nothing was spent"):
        await ModelFiles(Street({}).http, tmp_path).load(pack.roots, urls(2))


async def test_dead_and_lying_providers_do_not_hide_the_next_one(pack: Pack, tmp_path: Path) -> None:
    forged = serving(pack, tokenizer=b"{}")
    street = Street({**dict.fromkeys(range(8, 16), forged), 16: serving(pack)})
    assert await ModelFiles(street.http, tmp_path).load(pack.roots, urls(17))
