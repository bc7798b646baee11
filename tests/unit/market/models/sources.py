"""Model files that tests write: the same tiny llama as a GGUF file and as a Hugging Face snapshot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from market.models.program import tensors
from market.models.quantise import FloatArray
from market.models.recipe import Recipe, integer_config
from market.models.source import Shape
from market.models.tiny import TINY, RandomSource, tiny_recipe

SHAPE = dataclasses.replace(TINY, hidden=64, feed_forward=96, tied=False)

GGUF_NAMES = {
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
SNAPSHOT_NAMES = {
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


def floats(shape: Shape = SHAPE) -> dict[str, FloatArray]:
    """Float tensors by canonical name, with few enough bits to be exact in float16 and bfloat16."""
    source = RandomSource(shape, "sources")
    names = [spec.name for spec in tensors(integer_config(shape, shape.context), shape.tied)]
    return {name: np.rint(np.concatenate(list(source.read(name))) * 64) / 64 for name in names}


def write_snapshot(
    folder: Path, values: Mapping[str, FloatArray], dtype: torch.dtype, shape: Shape = SHAPE, **config: Any
) -> Path:
    """A snapshot folder in two shards; ``config`` overrides entries of config.json."""
    folder.mkdir()
    content = {
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_base,
        "tie_word_embeddings": shape.tied,
        "hidden_act": "silu",
        "rope_scaling": None,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps({**content, **config}))
    source = RandomSource(shape)
    (folder / "tokenizer.json").write_bytes(source.tokenizer)
    tokenizer_config = {"chat_template": source.template.decode(), "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    converted = {snapshot_name(name): torch.from_numpy(value).to(dtype) for name, value in values.items()}
    converted = {name: value[0] if value.shape[0] == 1 else value for name, value in converted.items()}
    names = sorted(converted)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: converted[name].contiguous() for name in part}, folder / f"model-{number}.safetensors")
    return folder


def write_gguf(
    path: Path, values: Mapping[str, FloatArray], shape: Shape = SHAPE, quantisation: str = "F32", **options: Any
) -> Path:
    """A GGUF file as llama.cpp's converter lays it out: query and key rows interleaved for its rotary embedding."""
    writer = gguf.GGUFWriter(path, options.get("architecture", "llama"))
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    if options.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    _add_tokenizer(writer, shape)
    for name, value in values.items():
        array = np.ascontiguousarray(_interleaved(name, value, shape), dtype=np.float32)
        kind = gguf.GGMLQuantizationType[quantisation if array.shape[0] > 1 else "F32"]
        if array.shape[0] == 1:
            writer.add_tensor(gguf_name(name), array[0])
        else:
            writer.add_tensor(gguf_name(name), gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def recipe(**changes: Any) -> Recipe:
    return dataclasses.replace(tiny_recipe(SHAPE), **changes)


def snapshot_name(name: str) -> str:
    if not name.startswith("layers."):
        top = {"embedding": "model.embed_tokens", "output_norm": "model.norm", "head": "lm_head"}
        return f"{top[name]}.weight"
    _, layer, field = name.split(".")
    return f"model.layers.{layer}.{SNAPSHOT_NAMES[field]}.weight"


def gguf_name(name: str) -> str:
    if not name.startswith("layers."):
        return {"embedding": "token_embd", "output_norm": "output_norm", "head": "output"}[name] + ".weight"
    _, layer, field = name.split(".")
    return f"blk.{layer}.{GGUF_NAMES[field]}.weight"


def _interleaved(name: str, value: FloatArray, shape: Shape) -> FloatArray:
    heads = {"query": shape.heads, "key": shape.kv_heads}.get(name.rpartition(".")[2])
    if heads is None:
        return value
    return value.reshape(heads, 2, shape.head_size // 2, -1).swapaxes(1, 2).reshape(value.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, shape: Shape) -> None:
    model = json.loads(RandomSource(shape).tokenizer)["model"]
    tokens = list(model["vocab"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_eos_token_id(2)
    writer.add_bos_token_id(1)
    writer.add_chat_template("{{ bos_token }}" + RandomSource(shape).template.decode())
