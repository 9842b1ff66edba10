"""Runs `ds4 logits` and measures how far its logits are from given ones.

    ds4 logits -m FILE --tokens IDS.txt --positions 0,4,... --backend NAME
               [--no-fp8] [--no-fp4] [--wide-rows] -o OUT.f32

IDS.txt holds token ids separated by blanks or newlines; OUT.f32 is raw little-endian float32, positions x vocabulary."""
import subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np


def engine_logits(ds4, model, tokens, positions, backend, *options):
    """-> (logits [P,V] float64, seconds)"""
    with tempfile.TemporaryDirectory() as folder:
        ids, out = Path(folder) / "ids.txt", Path(folder) / "out.f32"
        ids.write_text(" ".join(str(int(t)) for t in tokens) + "\n")
        command = [str(ds4), "logits", "-m", str(model), "--tokens", str(ids), "--positions",
                   ",".join(str(int(p)) for p in positions), "--backend", backend, *options, "-o", str(out)]
        start = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode: sys.exit(f"{' '.join(command)}\nended with {done.returncode}: {done.stderr.strip()}")
        z = np.fromfile(out, "<f4").astype(np.float64)
    if z.size % len(positions): sys.exit(f"{z.size} logits are not a whole number for {len(positions)} positions")
    return z.reshape(len(positions), -1), time.time() - start


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms_over_std(z, want):
    """Per position: root mean square difference over the standard deviation of the expected logits."""
    return np.sqrt(np.mean((z - want) ** 2, -1)) / want.std(-1)


def kl(z, want):
    """Per position: KL(expected || ours) in nats."""
    p, log = softmax(want), lambda a: a - a.max(-1, keepdims=True) - np.log(np.exp(a - a.max(-1, keepdims=True)).sum(-1, keepdims=True))
    return (p * (log(want) - log(z))).sum(-1)


def top1(z, want): return z.argmax(-1) == want.argmax(-1)
