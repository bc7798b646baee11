"""A Hugging Face snapshot (config.json, *.safetensors, tokenizer.json, chat template) as a source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from market.models.errors import SourceError
from market.models.gguf_source import bind_special_tokens
from market.models.program import tensors
from market.models.quantise import FloatArray
from market.models.recipe import integer_config
from market.models.safetensors_file import Entry, FormatError, map_tensors
from market.models.source import Shape, folder_sha256

_ROWS_AT_ONCE = 4096
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_NAMES = {"embedding": "model.embed_tokens.weight", "output_norm": "model.norm.weight", "head": "lm_head.weight"}
_FLOATS = ("F64", "F32", "F16", "BF16")


class SnapshotSource:
    """Reads config.json and maps every *.safetensors file of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.file = folder, folder.name
        config = self._json("config.json")
        self.shape, self.stop_tokens = _shape(config), _stop_tokens(config)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise SourceError(folder.name, "holds no *.safetensors file")
        self._tensors: dict[str, Entry] = {}
        for file in files:
            try:
                self._tensors |= map_tensors(file)
            except (FormatError, OSError) as error:
                raise SourceError(file.name, str(error)) from error
        specs = tensors(integer_config(self.shape, self.shape.context), self.shape.tied)
        self._specs = {spec.name: spec for spec in specs}
        expected = {_snapshot_name(spec.name) for spec in specs} | ({_NAMES["head"]} if self.shape.tied else set())
        if unknown := sorted(set(self._tensors) - expected):
            raise SourceError(unknown[0], "a tensor that the llama program has no place for")
        try:
            self.tokenizer = (folder / "tokenizer.json").read_bytes()
        except OSError as error:
            raise SourceError("tokenizer.json", "missing or unreadable") from error
        self.template, template_files = self._template()
        self.sha256 = folder_sha256([folder / "config.json", folder / "tokenizer.json", *template_files, *files])

    def read(self, name: str) -> Iterator[FloatArray]:
        spec, full_name = self._specs[name], _snapshot_name(name)
        entry = self._tensors.get(full_name)
        if entry is None:
            raise SourceError(full_name, "missing")
        if entry.dtype not in _FLOATS:
            raise SourceError(full_name, f"type {entry.dtype} is not one of {', '.join(_FLOATS)}")
        expected = (spec.columns,) if spec.role == "gain" else (spec.rows, spec.columns)
        if entry.array.shape != expected:
            raise SourceError(full_name, f"shape {list(entry.array.shape)}, expected {list(expected)}")
        array = entry.array.reshape(spec.rows, spec.columns)
        for start in range(0, spec.rows, _ROWS_AT_ONCE):
            block = Entry(entry.dtype, array[start : start + _ROWS_AT_ONCE]).to_float().astype(np.float64)
            if not np.isfinite(block).all():
                raise SourceError(full_name, "holds NaN or infinity")
            yield block

    def _json(self, name: str) -> dict[str, Any]:
        try:
            data = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SourceError(name, "missing or no JSON") from error
        if not isinstance(data, dict):
            raise SourceError(name, "is no JSON object")
        return data

    def _template(self) -> tuple[bytes, list[Path]]:
        standalone, described = self._folder / "chat_template.jinja", self._folder / "tokenizer_config.json"
        files = [path for path in (standalone, described) if path.exists()]
        config = self._json(described.name) if described.exists() else {}
        template = standalone.read_text(encoding="utf-8") if standalone.exists() else config.get("chat_template")
        if not isinstance(template, str):
            raise SourceError("chat_template", "the folder has no chat template")
        named = {}
        for role in ("bos_token", "eos_token"):
            token = config.get(role)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                named[role] = content
        return bind_special_tokens(template, named), files


def _shape(config: dict[str, Any]) -> Shape:
    """Raises SourceError unless config.json describes the plain llama program."""
    plain = {
        "model_type": "llama",
        "hidden_act": "silu",
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
    }
    for name, value in plain.items():
        if config.get(name, value) != value:
            raise SourceError(f"config.json {name}", f"{config[name]!r}, only {value!r} is supported")
    try:
        heads = int(config["num_attention_heads"])
        return Shape(
            vocabulary=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            hidden=int(config["hidden_size"]),
            feed_forward=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            epsilon=float(config["rms_norm_eps"]),
            rope_base=float(config.get("rope_theta", 10000.0)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError("config.json", f"lacks or garbles {error}") from error


def _stop_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    declared = config.get("eos_token_id")
    tokens = declared if isinstance(declared, list) else [declared]
    return tuple(sorted(token for token in tokens if isinstance(token, int)))


def _snapshot_name(name: str) -> str:
    if not name.startswith("layers."):
        return _NAMES[name]
    _, layer, field = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[field]}.weight"
