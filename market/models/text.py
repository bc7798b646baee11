"""Text ↔ token ids, at the edges only: the protocol itself speaks ids.

The chat template runs in a sandboxed Jinja without a clock, files or includes, so the same messages give the
same ids for everybody who holds the pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from market.models.errors import TextError
from market.models.pack import Pack


class Text:
    """Tokenizer and chat template of one pack."""

    def __init__(self, tokenizer: bytes, template: bytes) -> None:
        """Takes the contents of tokenizer.json and template.jinja. Raises TextError when either is malformed."""
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as error:
            raise TextError("tokenizer.json cannot be loaded.", hint="Verify the pack.") from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals = {"raise_exception": _refuse, "range": environment.globals["range"]}
        try:
            self._template = environment.from_string(template.decode())
        except (TemplateError, UnicodeDecodeError) as error:
            raise TextError("template.jinja cannot be parsed.", hint="Verify the pack.") from error

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; nothing is added. Names of special tokens in the text become those tokens."""
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise TextError("The text is not valid Unicode; nothing was sent.") from error

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of ids; special tokens (the stop token among them) are left out unless asked for."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special))

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Messages (``role``, ``content``) → the prompt text that ends where the assistant's answer begins.

        Raises TextError for no messages, a message of another shape, or one that the template refuses.
        """
        if not messages:
            raise TextError("There are no messages; nothing was sent.", hint="Send at least one.")
        for message in messages:
            if set(message) != {"role", "content"} or not all(isinstance(part, str) for part in message.values()):
                raise TextError("A message has exactly a role and a content, both text; nothing was sent.")
        try:
            return self._template.render(messages=[dict(message) for message in messages], add_generation_prompt=True)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise TextError(f"The chat template refuses these messages: {error}. Nothing was sent.") from error

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a rendered conversation. Raises TextError as ``render``."""
        return self.encode(self.render(messages))


def load_text(pack: Pack) -> Text:
    """The tokenizer and template of a loaded (hence checked) pack."""
    return Text(pack.read_file("tokenizer.json"), pack.read_file("template.jinja"))


def _refuse(message: str) -> None:
    """What templates call to reject messages."""
    raise TemplateError(message)
