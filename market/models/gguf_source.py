"""A GGUF file (llama.cpp) as a source: tensors dequantised row by row, the tokenizer rebuilt from its
metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize

from market.models.errors import SourceError
from market.models.program import TensorSpec, tensors
from market.models.quantise import FloatArray
from market.models.recipe import integer_config
from market.models.source import Shape, file_sha256

_ROWS_AT_ONCE = 4096
_LAYER_NAMES = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "attention_output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_NAMES = {"embedding": "token_embd.weight", "output_norm": "output_norm.weight", "head": "output.weight"}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # token types of the GGUF format


class GgufSource:
    """Reads through a memory map; dequantisation is gguf's, element by element in float32 (exact images of
    those floats).
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = GGUFReader(path)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise SourceError(path.name, f"not a readable GGUF file ({error})") from error
        self.file, self.sha256 = path.name, file_sha256(path)
        if (architecture := self._field("general.architecture")) != "llama":
            raise SourceError("general.architecture", f"{architecture!r} is not llama")
        if any(name.startswith("llama.rope.scaling") for name in self._reader.fields):
            raise SourceError("llama.rope.scaling", "scaled rotary embeddings are not supported")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shape = self._shape()
        self._specs: dict[str, TensorSpec] = {
            spec.name: spec for spec in tensors(integer_config(self.shape, self.shape.context), self.shape.tied)
        }
        if unknown := sorted(set(self._tensors) - {_gguf_name(name) for name in self._specs}):
            raise SourceError(unknown[0], "a tensor that the llama program has no place for")
        self.stop_tokens: tuple[int, ...] = (int(self._field("tokenizer.ggml.eos_token_id")),)
        self.tokenizer, self.template = self._tokenizer(), self._template()

    def read(self, name: str) -> Iterator[FloatArray]:
        spec, gguf_name = self._specs[name], _gguf_name(name)
        tensor = self._tensors.get(gguf_name)
        if tensor is None:
            raise SourceError(gguf_name, "missing")
        expected = [spec.columns] if spec.role == "gain" else [spec.columns, spec.rows]
        if [int(size) for size in tensor.shape] != expected:
            raise SourceError(gguf_name, f"shape {list(tensor.shape)}, expected {expected}")
        data = tensor.data.reshape(spec.rows, -1)
        order = self._row_order(name)
        for start in range(0, spec.rows, _ROWS_AT_ONCE):
            stop = start + _ROWS_AT_ONCE
            rows = data[start:stop] if order is None else data[order[start:stop]]
            try:
                block = dequantize(rows, tensor.tensor_type).astype(np.float64)
            except NotImplementedError as error:
                raise SourceError(gguf_name, f"type {tensor.tensor_type.name} cannot be read") from error
            if not np.isfinite(block).all():
                raise SourceError(gguf_name, "holds NaN or infinity")
            yield block

    def _row_order(self, name: str) -> Any:
        """llama.cpp interleaves the two halves of each rotary head; the row that holds element i of our
        order.
        """
        heads = {"query": self.shape.heads, "key": self.shape.kv_heads}.get(name.rpartition(".")[2])
        if heads is None:
            return None
        half = self.shape.head_size // 2
        return np.arange(heads * 2 * half).reshape(heads, half, 2).transpose(0, 2, 1).reshape(-1)

    def _shape(self) -> Shape:
        heads, hidden = int(self._field("llama.attention.head_count")), int(self._field("llama.embedding_length"))
        head_size = int(self._field("llama.rope.dimension_count", hidden // heads))
        if int(self._field("llama.attention.key_length", head_size)) != head_size:
            raise SourceError("llama.attention.key_length", "rotary embedding must cover the whole head")
        return Shape(
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]) if "token_embd.weight" in self._tensors else 0,
            context=int(self._field("llama.context_length")),
            hidden=hidden,
            feed_forward=int(self._field("llama.feed_forward_length")),
            layers=int(self._field("llama.block_count")),
            heads=heads,
            kv_heads=int(self._field("llama.attention.head_count_kv", heads)),
            head_size=head_size,
            epsilon=float(self._field("llama.attention.layer_norm_rms_epsilon")),
            rope_base=float(self._field("llama.rope.freq_base", 10000.0)),
            tied="output.weight" not in self._tensors,
        )

    def _field(self, name: str, default: Any = None) -> Any:
        field = self._reader.fields.get(name)
        if field is None:
            if default is None:
                raise SourceError(name, "missing from the file's metadata")
            return default
        return field.contents()

    def _tokenizer(self) -> bytes:
        """tokenizer.json of a byte-level BPE vocabulary, written by us so that its bytes do not depend on a
        library's version.
        """
        model, pre = self._field("tokenizer.ggml.model"), self._field("tokenizer.ggml.pre", "")
        if model != "gpt2" or pre not in ("smollm", "gpt-2", "default", ""):
            raise SourceError("tokenizer.ggml.pre", f"{model}/{pre} is not a known byte-level BPE")
        tokens, types = self._field("tokenizer.ggml.tokens"), self._field("tokenizer.ggml.token_type")
        special = [i for i, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]
        splits: list[dict[str, Any]] = [{"type": "Digits", "individual_digits": True}] if pre == "smollm" else []
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": i,
                    "content": tokens[i],
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": types[i] == _CONTROL,
                }
                for i in special
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in self._field("tokenizer.ggml.merges")],
            },
        }
        return json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode()

    def _template(self) -> bytes:
        """The chat template; special tokens that it names are bound in its first lines, so that the file
        stands alone.
        """
        template = str(self._field("tokenizer.chat_template"))
        tokens = self._field("tokenizer.ggml.tokens")
        named = {}
        for role in ("bos", "eos"):
            if (number := self._reader.fields.get(f"tokenizer.ggml.{role}_token_id")) is not None:
                named[f"{role}_token"] = tokens[int(number.contents())]
        return bind_special_tokens(template, named)


def bind_special_tokens(template: str, named: dict[str, str]) -> bytes:
    """``template`` with `{% set bos_token = … %}` lines in front for those of ``named`` that occur in it."""
    used = {name: token for name, token in named.items() if name in template}
    lines = [f"{{%- set {name} = {json.dumps(token)} -%}}\n" for name, token in used.items()]
    return ("".join(lines) + template).encode()


def _gguf_name(name: str) -> str:
    if not name.startswith("layers."):
        return _NAMES[name]
    _, layer, field = name.split(".")
    return f"blk.{layer}.{_LAYER_NAMES[field]}.weight"
