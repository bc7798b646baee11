"""Text ↔ ids: templates without a clock, bad messages refused, and the real model's ids."""

from __future__ import annotations

import pytest

from market.models.errors import TextError
from market.models.pack import Pack
from market.models.text import Text, load_text
from market.models.tiny import TEMPLATE, RandomSource

TOKENIZER = RandomSource().tokenizer


@pytest.fixture(scope="module")
def text() -> Text:
    return Text(TOKENIZER, TEMPLATE.encode())


@pytest.mark.parametrize("content", ["the inner theatre", "", "naïve café ☕ 你好", "a\n\tb", "\x00\x7f", "👩‍🚀"])
def test_decode_of_encoded_text_is_the_text(content: str, text: Text) -> None:
    ids = text.encode(content)
    assert text.decode(ids) == content
    assert all(0 <= token < 288 for token in ids)


def test_encode_uses_the_merges(text: Text) -> None:
    assert len(text.encode("the")) == 1
    assert len(text.encode("zqx")) == 3


def test_encode_chat_wraps_messages_in_special_tokens(text: Text) -> None:
    ids = text.encode_chat([{"role": "system", "content": "an"}, {"role": "user", "content": "on"}])
    rendered = "<|im_start|>system\nan<|im_end|>\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\n"
    assert ids == text.encode(rendered)
    assert [token for token in ids if token in (1, 2)] == [1, 2, 1, 2, 1]
    assert text.decode(ids, keep_special=True) == rendered


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "a", "name": "b"}],
        [{"role": 1, "content": "a"}],
    ],
)
def test_encode_chat_of_malformed_messages_is_refused(messages: list[dict[str, str]], text: Text) -> None:
    with pytest.raises(TextError):
        text.encode_chat(messages)


def test_encode_of_a_lone_surrogate_is_refused(text: Text) -> None:
    with pytest.raises(TextError):
        text.encode("\ud800")


@pytest.mark.parametrize(
    "template",
    [
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{{ strftime_now('%Y') }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ lipsum() }}",
        "{{ 1 // 0 }}",
        "{{ raise_exception('only one message') }}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ],
)
def test_render_of_a_template_that_reaches_outside_is_refused(template: str) -> None:
    with pytest.raises(TextError):
        Text(TOKENIZER, template.encode()).render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("tokenizer", "template"), [(b"{}", b""), (b"\xff", b""), (TOKENIZER, b"{% for"), (TOKENIZER, b"\xff")]
)
def test_text_of_malformed_files_is_refused(tokenizer: bytes, template: bytes) -> None:
    with pytest.raises(TextError):
        Text(tokenizer, template)


def test_real_tokenizer_gives_the_published_ids(real_pack: Pack) -> None:
    """Ids as the model's own publisher's tokenizer gives them."""
    text = load_text(real_pack)
    assert text.encode("Hello world, it is 2024!") == [19556, 905, 28, 357, 314, 216, 34, 32, 34, 36, 17]
    ids = text.encode_chat([{"role": "user", "content": "Hi"}])
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert ids == text.encode(
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [token for token in ids if token < 17] == [1, 2, 1, 2, 1]
