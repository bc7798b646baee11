"""A tiny llama-shaped model with deterministic random weights and a real tokenizer: for tests and dry runs.

`python -m market.models.tiny DIR` writes the pack; the same bytes on every machine. It answers nonsense,
quickly.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from market.models.pack import Pack
from market.models.packer import write_pack
from market.models.program import Fractions, TensorSpec, tensors
from market.models.quantise import FloatArray
from market.models.recipe import Recipe, integer_config
from market.models.source import Shape

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = ("t h", "th e", "Ġ the", "i n", "e r", "a n", "an d", "o n", "Ġ a", "i s")
TINY = Shape(
    vocabulary=288,  # three special tokens, 256 bytes, the merges, and some ids that no text has
    context=512,
    hidden=72,
    feed_forward=160,
    layers=2,
    heads=6,
    kv_heads=2,
    head_size=16,
    epsilon=1e-5,
    rope_base=10000.0,
    tied=True,
)


class RandomSource:
    """Weights drawn from SHAKE-256 of ``seed`` and the tensor's name: roughly uniform, as wide as trained
    ones.
    """

    def __init__(self, shape: Shape = TINY, seed: str = "tiny") -> None:
        self.shape, self._seed = shape, seed
        self.stop_tokens: tuple[int, ...] = (2,)
        self.file = f"random:{seed}"
        self.sha256 = hashlib.sha256(f"{seed}:{shape}".encode()).hexdigest()
        self.tokenizer, self.template = _tokenizer(), TEMPLATE.encode()
        self._specs: dict[str, TensorSpec] = {
            spec.name: spec for spec in tensors(integer_config(shape, shape.context), shape.tied)
        }

    def read(self, name: str) -> Iterator[FloatArray]:
        spec = self._specs[name]
        count = spec.rows * spec.columns
        raw = hashlib.shake_256(f"{self._seed}:{name}".encode()).digest(2 * count)
        values = np.frombuffer(raw, dtype="<i2").astype(np.float64) / 32768  # -1..1
        if spec.role == "gain":
            values = 1 + values / 2
        elif name == "embedding":
            values = values / 32
        else:
            values = values * 3 / spec.columns**0.5
        yield values.reshape(spec.rows, spec.columns)


def tiny_recipe(shape: Shape = TINY) -> Recipe:
    """A recipe that fits ``RandomSource`` of that shape."""
    bits = (10,) * shape.layers
    return Recipe(
        name="tiny",
        licence="Apache-2.0",
        context=shape.context,
        stop_tokens=(2,),
        model_id="",
        source_file="",
        source_sha256="",
        package="",
        package_sha256="",
        fractions=Fractions(bits, bits, (12,) * shape.layers),
    )


def write_tiny_pack(path: Path, seed: str = "tiny") -> Pack:
    """Packs the tiny model into ``path`` in well under a second; another ``seed`` makes another model (and
    modelId).
    """
    return write_pack(RandomSource(TINY, seed), tiny_recipe(), path)


def _tokenizer() -> bytes:
    """A byte-level BPE over all bytes with a few merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # the byte-to-character table of GPT-2: unprintable bytes move behind U+0100
    characters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*SPECIAL, *characters, *(merge.replace(" ", "") for merge in MERGES)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }
    return json.dumps(content, separators=(",", ":")).encode()


if __name__ == "__main__":
    sys.stdout.write(f"0x{write_tiny_pack(Path(sys.argv[1])).model_id.hex()}\n")
