#!/usr/bin/env python3
"""Writes small valid model files as seeds for gguf_fuzz into tests/fuzz/corpus/gguf.

    python3 tests/fuzz/make_gguf_corpus.py

The bytes follow docs/formats/gguf.md and are put together here without any code of the engine.
"""
import struct
from pathlib import Path

out = Path(__file__).resolve().parent / "corpus/gguf"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMAT = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}

def string(s): return struct.pack("<Q", len(s)) + s
def value(t, v): return string(v) if t == STR else struct.pack("<" + FORMAT[t], v)
def kv(key, t, v): return string(key) + struct.pack("<I", t) + value(t, v)
def array(key, t, vs): return string(key) + struct.pack("<IIQ", ARR, t, len(vs)) + b"".join(value(t, v) for v in vs)
def tensor(name, dims, t, offset): return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, t, offset)

def write(name, kvs, tensors, data_bytes, align=32):
    b = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(kvs)) + b"".join(kvs) + b"".join(tensors)
    b += bytes(-len(b) % align) + bytes(i * 7 & 255 for i in range(data_bytes))
    (out / name).write_bytes(b)

out.mkdir(parents=True, exist_ok=True)
scalars = [kv(b"k.%d" % t, t, 1) for t in FORMAT] + [kv(b"k.s", STR, b"text")]
arrays = [array(b"a.%d" % t, t, [1, 0, 1]) for t in FORMAT] + [array(b"a.s", STR, [b"one", b"", b"t\xc3\xbc"])]
write("empty.gguf", [], [], 0)
write("metadata.gguf", scalars + arrays, [], 0)
write("tensors.gguf", [kv(b"general.alignment", U32, 64)],
      [tensor(b"f32", [3, 2], 0, 0), tensor(b"f16", [4], 1, 0), tensor(b"q8_0", [32, 1], 8, 64),
       tensor(b"q2_k", [256], 10, 128), tensor(b"q4_k", [256, 1, 1, 1], 12, 128), tensor(b"iq2_xxs", [256], 16, 256),
       tensor(b"i32", [4], 26, 64), tensor(b"bf16", [5], 30, 64)], 384, 64)
write("both.gguf", [kv(b"general.architecture", STR, b"deepseek4"), array(b"tokenizer.ggml.tokens", STR, [b"a", b"b"]),
                    array(b"deepseek4.attention.compress_ratios", I32, [0, 0, 4, 128])],
      [tensor(b"token_embd.weight", [4, 2], 1, 0)], 16)
