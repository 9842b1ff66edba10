"""The numpy reference as the golden tests use it: float64, RoPE tables that depend on no pow library, and the two
ways of storing rows that the engine has.

Wide    rows stay float64: dsv4_ref in its exact mode.
Packed  what the engine does unless told otherwise: the 64 rotary channels of every stored 512-wide row (window and
        compressed) go to float32 and from there to float16.  The 448 plain ones are E4M3 values times a power of two
        and lose nothing; indexer keys are E2M1 values and lose nothing.

Why the tables are replaced: numpy's float32 power is not correctly rounded where it runs on vector instructions.
Against pow in double rounded once to float32, it differs by one ulp in entries 5, 7, 14, 27 for theta 10000 (5 and 27
remain after 1/x) and in 3, 6, 10, 14, 23, 28 for theta 160000; at 2,500 tokens such an ulp is an angle of 1e-4 in the fast
channels, enough to flip E4M3 roundings.  The double form is what the C code computes, and was checked against
60-digit arithmetic: all 64 powers come out correctly rounded."""
import math, sys
from pathlib import Path
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "reference"))
import dsv4_ref
from dsv4_ref import GGUF


def rope_table(theta, yarn=None):
    """[R/2] float32 radians per position.  yarn: (factor, original length, fast, slow) for layers with a compressor.
    Every operation is float32, in the order of docs/model.md 7.3, but the power, which is double rounded to float32."""
    R = 64
    i = np.arange(0, R, 2, dtype=np.float32)
    power = np.array([float(np.float32(theta)) ** (k / R) for k in range(0, R, 2)]).astype(np.float32)
    freq = np.float32(1) / power
    if yarn:
        factor, orig, fast, slow = yarn
        dim = lambda rot: R * math.log(orig / (rot * 2 * math.pi)) / (2 * math.log(theta))
        lo, hi = max(math.floor(dim(fast)), 0), min(math.ceil(dim(slow)), R - 1)
        ramp = np.clip((i / 2 - lo) / max(hi - lo, 0.001), 0, 1).astype(np.float32)
        freq = freq / np.float32(factor) * ramp + freq * (1 - ramp)
    assert freq.dtype == np.float32
    return freq


class Wide(dsv4_ref.Model):
    def __init__(self, path):
        super().__init__(path, "exact", f64=True)
        self.freq = [rope_table(self.theta), rope_table(self.theta_c, self.yarn)]

    def rope(self, x, pos, compressed, inverse=False):
        """As in dsv4_ref: the angle is a float32 product, its sine and cosine are float64."""
        ang = (np.asarray(pos, np.float32)[:, None] * self.freq[bool(compressed)]).astype(np.float64)
        shape = (len(pos),) + (1,) * (x.ndim - 2) + (self.R // 2,)
        c, s = np.cos(ang).reshape(shape), np.sin(ang).reshape(shape) * (-1 if inverse else 1)
        y = np.array(x, np.float64)
        a, b = x[..., -self.R::2], x[..., -self.R + 1::2]
        y[..., -self.R::2], y[..., -self.R + 1::2] = a * c - b * s, a * s + b * c
        return y


class Packed(Wide):
    def row(self, x):
        if x.shape[-1] == self.K:
            x = x.copy()
            x[..., -self.R:] = x[..., -self.R:].astype(np.float32).astype(np.float16)
        return x


class Without:
    """with Without("fp8"): the round trip of that name is the identity."""
    def __init__(self, name): self.name = name

    def __enter__(self):
        self.kept = getattr(dsv4_ref, self.name)
        setattr(dsv4_ref, self.name, lambda x, block=None: x)

    def __exit__(self, *_): setattr(dsv4_ref, self.name, self.kept)


# ------------------------------------------------------------------ numbers that C and Python draw alike
def words(seed, n):
    """First n outputs of splitmix64 (rng_mix in src/base/rng.h) started at seed."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        return z ^ z >> np.uint64(31)


def half_seed(model, layer, half): return 1000 * model + 10 * layer + half


def half_input(seed, T, D):
    """Streams [T,4,D], uniform in [-1.75, 1.75), every value exact in float32:
        v[i] = ((int)(word_i >> 44) - 2^19) * 7 * 2^-21."""
    k = (words(seed, T * 4 * D) >> np.uint64(44)).astype(np.int64) - (1 << 19)
    v = k * 7 * 2.0 ** -21
    assert np.array_equal(v, v.astype(np.float32))
    return v.reshape(T, 4, D)
