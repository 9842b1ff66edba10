#!/usr/bin/env python3
"""Writes small shards as seeds for safetensors_fuzz into tests/fuzz/corpus/safetensors.

    python3 tests/fuzz/make_safetensors_corpus.py
"""
import json, struct
from pathlib import Path

out = Path(__file__).resolve().parent / "corpus/safetensors"
SIZE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E8M0": 1, "I64": 8, "I32": 4, "I8": 1, "U8": 1}


def write(name, tensors, **extra):
    head, at = dict(extra), 0
    for n, (dtype, shape) in tensors.items():
        k = SIZE[dtype]
        for d in shape: k *= d
        head[n], at = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + k]}, at + k
    text = json.dumps(head).encode()
    (out / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


out.mkdir(parents=True, exist_ok=True)
write("empty", {})
write("all", {f"t.{d}": (d, [2, 3]) for d in SIZE}, __metadata__={"format": "pt"})
write("scalar", {"model.norm.weight": ("BF16", []), "x": ("F32", [1, 1, 1, 2])})
write("expert", {"layers.0.ffn.experts.0.w1.weight": ("I8", [4, 16]), "layers.0.ffn.experts.0.w1.scale": ("F8_E8M0", [4, 1])})
