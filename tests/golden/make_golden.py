#!/usr/bin/env python3
"""Makes tests/data/golden: results of the numpy reference that the C code is judged by.

    make_golden.py                 everything (about 10 minutes on one core)
    make_golden.py rope tiny-1     only these parts: rope, tiny-1, tiny-2, tiny-3, nano
    make_golden.py --stability ... also repeats every whole run with the embeddings changed by 1e-13

Needs python3 with numpy, a C compiler (for the tiny models), and for nano the models/ folder.  What C computes never
enters: the tiny models are random bytes from tests/support/tiny_model.c, the results are numpy's.

Layout of tests/data/golden.  One raw little-endian file per array, C order, without a header.  INDEX lists them, one a
line: file name, element type (i32, f32, f64), dimensions.  MODELS lists name, length and FNV-1a-64 checksum (hex) of
the model files that the results belong to.

    rope/freq_10000, rope/freq_160000.f32 [32]  radians per position of ratio-0 layers and of the others
    rope/check.f64 [9,3]         values printed in docs/model.md 7.3 (seven digits): table (0, 1), entry, value

    tiny-N/tokens.i32 [T]        the prompt
    tiny-N/half_what.i32 [n,3]   half layers: layer, half (0 attention, 1 experts), storage (0 wide, 1 packed)
    tiny-N/half_rows.i32 [R]     token positions whose result is stored; R = 16
    tiny-N/half_out.f64 [n,R,4,d/16]   streams after the half layer: of row r the channels 16 j + r % 16 of each stream
    tiny-N/half_ends.f32 [n,4]   the first three values and the last of the input of each half layer
    tiny-N/logit_pos.i32 [P]     positions
    tiny-N/logits_wide.f64, logits_packed.f64 [P,V]   logits of the whole run from the tokens
    tiny-1/logits_wide_no_fp8.f64, logits_wide_no_fp4.f64   the same without one of the model's round trips

    nano/tokens_N.i32 [N]        N = 1, 5, 130, 700, 2500: the stored prompts of the shipped model
    nano/pos_N.i32 [P]           the last four positions (or the only one)
    nano/wide_N.f32, nano/packed_N.f32 [P,8192]

A half layer starts from streams [T,4,d] that both sides make (T tokens at positions 0..T-1 of one timeline):

    uint64_t x = 1000 * N + 10 * layer + half;                     // base/rng.h
    for (i = 0; i < T * 4 * d; i++)
        v[i] = (float)((int32_t)(rng_mix(&x) >> 44) - (1 << 19)) * 7 * 0x1p-21f;

Tokens of tiny-N are rng_mix words from the seed 900 + N, modulo V (also stored).

How exact: two correct float64 programs agree to about 1e-12 unless some rounding or choice is nearly a tie; --stability
shows that none is (logits change by 1e-13 to 5e-13).  Packed and wide differ by 4e-2, because a float16 rounding moves
later E4M3 roundings; so a program that rounds differently (say from float64 to float16 directly) is that far away."""
import subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from twin import ROOT, Packed, Wide, Without, half_input, half_seed, rope_table, words

DATA = ROOT / "tests" / "data" / "golden"
TINY = {
    1: dict(T=300, rows=[0, 1, 3, 4, 7, 63, 66, 67, 68, 127, 128, 129, 200, 255, 256, 299],
            pos=[0, 1, 4, 31, 66, 67, 127, 128, 199, 255, 256, 299]),
    2: dict(T=280, rows=[0, 1, 3, 4, 7, 31, 32, 33, 127, 128, 194, 195, 200, 255, 256, 279],
            pos=[0, 1, 4, 31, 32, 127, 128, 194, 195, 255, 256, 279]),
    3: dict(T=2200, rows=[0, 3, 127, 128, 255, 1000, 2046, 2047, 2050, 2051, 2052, 2055, 2100, 2150, 2198, 2199],
            pos=[0, 3, 127, 128, 1000, 2047, 2050, 2051, 2052, 2100, 2198, 2199],
            halves=[(1, 0, 0), (2, 0, 0), (1, 0, 1)]),
}
NANO = (1, 5, 130, 700, 2500)
stability = False


def store(name, array):
    kind = {"i32": "<i4", "f32": "<f4", "f64": "<f8"}[name.rsplit(".", 1)[1]]
    a = np.ascontiguousarray(array)
    assert np.all(np.isfinite(a)), name
    path = DATA / name
    path.parent.mkdir(parents=True, exist_ok=True)
    a.astype(kind).tofile(path)
    lines = {}
    index = DATA / "INDEX"
    if index.exists(): lines = {l.split()[0]: l for l in index.read_text().splitlines()}
    lines[name] = " ".join([name, name.rsplit(".", 1)[1]] + [str(n) for n in a.shape])
    index.write_text("".join(lines[k] + "\n" for k in sorted(lines)))


def made_from(name, line):
    models = DATA / "MODELS"
    lines = {l.split()[0]: l for l in models.read_text().splitlines()} if models.exists() else {}
    lines[name] = line
    models.write_text("".join(lines[k] + "\n" for k in sorted(lines)))


def fnv(path):
    h = 0xcbf29ce484222325
    for b in Path(path).read_bytes(): h = (h ^ b) * 0x100000001b3 & (1 << 64) - 1
    return h


def rel(a, b): return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def logits(model, tokens, pos, shake=0.0):
    """Logits [P,V] of a whole run; shake scales every embedding element by 1 + shake * uniform(-1, 1)."""
    if shake:
        plain, noise = type(model).embed, np.random.default_rng(5)
        model.embed = lambda t: plain(model, t) * (1 + shake * noise.uniform(-1, 1, (len(t), model.D)))
    out = model.head(model.streams(tokens)[list(pos)])
    if shake: del model.embed
    return out


def whole_run(label, model, tokens, pos):
    out = logits(model, tokens, pos)
    if stability:
        print(f"  {label}: embeddings changed by 1e-13 -> logits by {rel(logits(model, tokens, pos, 1e-13), out):.1e}")
    return out


def rope():
    store("rope/freq_10000.f32", rope_table(10000.0))
    store("rope/freq_160000.f32", rope_table(160000.0, (16.0, 65536, 32.0, 1.0)))
    store("rope/check.f64", [[0, 1, 7.498942e-01], [0, 8, 1.000000e-01], [0, 31, 1.333522e-04], [1, 1, 6.876560e-01],
                             [1, 15, 3.635539e-03], [1, 16, 2.265625e-03], [1, 20, 2.969778e-04],
                             [1, 25, 5.372312e-06], [1, 31, 5.680529e-07]])
    for t, i, v in np.fromfile(DATA / "rope" / "check.f64").reshape(-1, 3):
        f = np.fromfile(DATA / "rope" / ("freq_160000.f32" if t else "freq_10000.f32"), "<f4")[int(i)]
        assert abs(f / v - 1) < 1e-6, (t, i, v, f)


def tiny(n, folder):
    c, path = TINY[n], f"{folder}/tiny-{n}.gguf"
    line = subprocess.run([f"{folder}/make_tiny", str(n), path], check=True, capture_output=True, text=True).stdout
    made_from(f"tiny-{n}", line.strip())
    wide, packed, T = Wide(path), Packed(path), c["T"]
    tokens = (words(900 + n, T) % np.uint64(wide.V)).astype(np.int64)
    what = c.get("halves") or [(l, h, 0) for l in range(wide.L) for h in (0, 1)] + [(l, 0, 1) for l in range(wide.L)]
    out, ends = [], []
    for layer, half, kind in what:
        m, s, p = (wide, packed)[kind], half_input(half_seed(n, layer, half), T, wide.D), f"blk.{layer}."
        y = m.ffn_half(s, tokens, p, m.limits[layer]) if half else m.attn_half(s, p, m.ratios[layer])
        out.append([y[t][:, r % 16::16] for r, t in enumerate(c["rows"])])
        ends.append(s.ravel()[[0, 1, 2, -1]])
    store(f"tiny-{n}/tokens.i32", tokens)
    store(f"tiny-{n}/half_what.i32", what)
    store(f"tiny-{n}/half_rows.i32", c["rows"])
    store(f"tiny-{n}/half_out.f64", out)
    store(f"tiny-{n}/half_ends.f32", ends)
    store(f"tiny-{n}/logit_pos.i32", c["pos"])
    a = whole_run(f"tiny-{n} wide", wide, tokens, c["pos"])
    b = whole_run(f"tiny-{n} packed", packed, tokens, c["pos"])
    store(f"tiny-{n}/logits_wide.f64", a)
    store(f"tiny-{n}/logits_packed.f64", b)
    print(f"  packed against wide: {rel(b, a):.1e}")
    for name in ("fp8", "fp4") if n == 1 else ():
        with Without(name): z = whole_run(f"tiny-{n} wide without {name}", wide, tokens, c["pos"])
        store(f"tiny-{n}/logits_wide_no_{name}.f64", z)
        print(f"  without {name} against wide: {rel(z, a):.1e}")


def nano():
    path = ROOT / "models" / "ds4-nano-q2.gguf"
    made_from("ds4-nano-q2", f"ds4-nano-q2 {path.stat().st_size} {fnv(path):016x}")
    for n in NANO:
        tokens = np.fromfile(DATA / "nano" / f"tokens_{n}.i32", "<i4")
        pos = np.arange(max(0, n - 4), n)
        store(f"nano/tokens_{n}.i32", tokens)
        store(f"nano/pos_{n}.i32", pos)
        a = whole_run(f"nano {n} wide", Wide(path), tokens, pos)
        b = whole_run(f"nano {n} packed", Packed(path), tokens, pos)
        store(f"nano/wide_{n}.f32", a)
        store(f"nano/packed_{n}.f32", b)
        print(f"  {n} tokens, packed against wide: {rel(b, a):.1e}, top-1 equal {np.sum(a.argmax(1) == b.argmax(1))} of {len(pos)}")


def main():
    global stability
    args = sys.argv[1:]
    if "--stability" in args: stability = True; args.remove("--stability")
    parts = args or ["rope", "tiny-1", "tiny-2", "tiny-3", "nano"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cc", "-std=gnu11", "-O2", f"-I{ROOT}/src", f"-I{ROOT}/tests", "-o", f"{folder}/make_tiny",
                        f"{ROOT}/tools/synth/make_tiny.c", f"{ROOT}/tests/support/tiny_model.c"], check=True)
        for part in parts:
            t = time.time()
            print(part, flush=True)
            if part == "rope": rope()
            elif part == "nano": nano()
            else: tiny(int(part[5:]), folder)
            print(f"  {time.time() - t:.0f} s", flush=True)


if __name__ == "__main__":
    main()
