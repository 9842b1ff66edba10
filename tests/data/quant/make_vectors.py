#!/usr/bin/env python3
"""Writes the test vectors of this folder from the numpy reference (tools/reference/dsv4_ref.py).

    python3 tests/data/quant/make_vectors.py

TYPE.bin       u32 number of blocks, the blocks' bytes, then every element as float32 (reference: dequantise)
NAME_round.bin u32 count, float32 inputs[count], float32 outputs[count]: f16 and bf16 by numpy and the
               reference's bf16(), e4m3 and e2m1 by the reference's round_float()
scale.bin      u32 count, f64 top[count], f32 amax[count], i32 k[count]: the least k with
               2^k >= float32(amax / top), found with exact integers
../gguf/nano_values.txt: name, element index, value (C99 hex float): elements of models/ds4-nano-q2.gguf

Blocks are random, with scales from ordinary to extreme (zeros, subnormals, largest, infinities, NaN).  IQ2_XXS
uses every codebook entry once and every sign pattern at least twice.
"""
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np

here = Path(__file__).resolve().parent
root = here.parent.parent.parent
sys.path.insert(0, str(root / "tools/reference"))
import dsv4_ref as ref

np.seterr(all="ignore")
rng = np.random.default_rng(20)

# Where the half-precision numbers of a block are, and how many blocks to write.
SCALES_AT = {ref.Q8_0: [0], ref.Q2_K: [80, 82], ref.Q4_K: [0, 2], ref.IQ2_XXS: [0]}
NAMES = {ref.F32: "f32", ref.F16: "f16", ref.BF16: "bf16", ref.I32: "i32", ref.Q8_0: "q8_0",
         ref.Q2_K: "q2_k", ref.Q4_K: "q4_k", ref.IQ2_XXS: "iq2_xxs"}
EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00], np.uint16)

def random_blocks(t):
    n = {ref.Q8_0: 40, ref.IQ2_XXS: 18}.get(t, 14)      # the last 10 get extreme scales
    b = rng.integers(0, 256, (n, ref.BLOCK[t][1]), dtype=np.uint8)
    for at in SCALES_AT[t]:
        d = rng.uniform(-0.1, 0.1, n).astype("<f2")
        bits = d.view(np.uint16)
        bits[-len(EXTREME):] = rng.permutation(EXTREME)
        if t in (ref.Q2_K, ref.Q4_K) and at in (80, 0):
            bits[-len(EXTREME):] = EXTREME
        b[:, at:at + 2] = d.view(np.uint8).reshape(n, 2)
    if t == ref.IQ2_XXS:
        g = b[:8, 2:].reshape(8, 8, 8)                       # a copy: put back below
        g[:, :, :4] = rng.permutation(256).astype(np.uint8).reshape(8, 8, 4)
        sign = rng.permutation(np.repeat(np.arange(128, dtype=np.uint32), 2)).reshape(8, 8, 4)
        word = rng.permutation(np.repeat(np.arange(16, dtype=np.uint32), 4)).reshape(8, 8) << 28
        for k in range(4):
            word |= sign[:, :, k] << 7 * k
        g[:, :, 4:] = word.astype("<u4").view(np.uint8).reshape(8, 8, 4)
        b[:8, 2:] = g.reshape(8, 64)
    return b.ravel()

def plain(t):
    size = ref.BLOCK[t][1]
    raw = rng.integers(0, 256, (400, size), dtype=np.uint8)
    special = {ref.F32: [0, 0x80000000, 1, 0x7F7FFFFF, 0xFF800000, 0x7FC00000], ref.BF16: [0, 0x8000, 1, 0x7F7F, 0xFF80],
               ref.F16: EXTREME, ref.I32: [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 16777217]}[t]
    for i, v in enumerate(special):
        raw[i] = np.frombuffer(int(v).to_bytes(size, "little"), np.uint8)
    return raw.ravel()

for t, name in NAMES.items():
    raw = random_blocks(t) if t in SCALES_AT else plain(t)
    x = ref.dequantise(raw, t).astype(np.float32)
    (here / f"{name}.bin").write_bytes(np.uint32(len(raw) // ref.BLOCK[t][1]).tobytes() + raw.tobytes() + x.tobytes())

# ---- roundings: random values over the format's range, plus everything near its ties
def rounding(name, f, codes):
    codes = np.unique(np.concatenate([codes, -codes]).astype(np.float32))
    codes = codes[np.isfinite(codes)]
    pick = codes if len(codes) < 300 else rng.choice(codes[:-1], 300, replace=False)
    after = codes[np.minimum(np.searchsorted(codes, pick) + 1, len(codes) - 1)]
    tie = ((pick.astype(np.float64) + after) / 2).astype(np.float32)
    top = np.abs(codes).max()
    x = np.concatenate([pick, tie, np.nextafter(tie, np.float32(np.inf)), np.nextafter(tie, np.float32(-np.inf)),
                        rng.uniform(-1, 1, 200).astype(np.float32) * top, top * rng.uniform(1, 2, 5).astype(np.float32),
                        (rng.choice([-1, 1], 200) * 2.0 ** rng.uniform(-30, 8, 200)).astype(np.float32)])
    x = x[np.isfinite(x)].astype(np.float32)
    (here / f"{name}_round.bin").write_bytes(np.uint32(len(x)).tobytes() + x.tobytes() + f(x).astype(np.float32).tobytes())

half = np.arange(1 << 15, dtype=np.uint16)
e4m3 = [m * 2.0 ** -9 for m in range(8)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1]
rounding("f16", lambda x: x.astype(np.float16), half.view(np.float16))
rounding("bf16", ref.bf16, (half.astype(np.uint32) << 16).view(np.float32))
rounding("e4m3", lambda x: ref.round_float(x, 3, -6, 448.0), np.array(e4m3))
rounding("e2m1", lambda x: ref.round_float(x, 1, 0, 6.0), np.array([0, .5, 1, 1.5, 2, 3, 4, 6]))

# ---- scale exponents: at, just below and just above every power of two times top, and random
amax, top = [], []
for t in (448.0, 6.0):
    at = np.array([t * 2.0 ** k for k in range(-120, 60, 7)], np.float32)
    near = [at]
    for way in (np.inf, -np.inf):
        x = at
        for _ in range(3):
            x = np.nextafter(x, np.float32(way))
            near.append(x)
    near.append((2.0 ** rng.uniform(-20, 20, 100)).astype(np.float32))
    a = np.concatenate(near)
    amax.append(a)
    top.append(np.full(len(a), t))
amax, top = np.concatenate(amax), np.concatenate(top)

def least_k(a, t):
    q = Fraction(float(np.float32(a / np.float32(t))))
    k = -200
    while Fraction(2) ** k < q: k += 1
    return k
k = np.array([least_k(a, t) for a, t in zip(amax, top)], np.int32)
(here / "scale.bin").write_bytes(np.uint32(len(k)).tobytes() + top.astype("<f8").tobytes() + amax.tobytes() + k.tobytes())

# ---- a few elements of the bundled model: one tensor of each type that it holds, first, middle and last
g = ref.GGUF(root / "models/ds4-nano-q2.gguf")
lines = []
for name in ("token_embd.weight", "output.weight", "output_norm.weight", "blk.0.ffn_gate_tid2eid.weight",
             "blk.3.ffn_gate_exps.weight", "blk.7.ffn_down_exps.weight", "blk.7.exp_probs_b.bias"):
    x = g.get(name).ravel()
    for i in (0, 1, len(x) // 2 + 3, len(x) - 1):
        lines.append(f"{name} {i} {float(x[i]).hex()}")
(root / "tests/data/gguf/nano_values.txt").write_text("\n".join(lines) + "\n")
