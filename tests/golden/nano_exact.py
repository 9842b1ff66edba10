#!/usr/bin/env python3
"""Compares `ds4 logits` on ds4-nano-q2-exact.gguf with logits of two programs that share no line with it: the public
transformers implementation, and the code ds4-nano was trained with.  Prints a table for docs/validation.md.

    nano_exact.py ds4-nano-q2-exact.gguf logits-q2-exact.npz [--ds4 ./ds4] [--backend ref] [--lengths 1,5,130,700,2500]
    nano_exact.py ... --twin                   the numpy reference in place of ds4 (to know what to expect)

Neither file is in the repository (49 MB and 1 MB); they come with the model's training.  The archive holds for N tokens:
tokens_N, pos_N, logits_N (transformers: neither FP8 nor FP4 round trip), fp8kv_logits_N (training code: FP8 round trip of
the rows, no FP4 in the indexer).  Both were computed in float32 on a GPU.

So the settings to look at are: no round trips against transformers, FP8 alone against the training code.  The others show
what a round trip is worth; the last one is the engine as it runs (its rows packed, rotary channels in float16).  FP4 matters only where the indexer chooses (top-k 64: from 259 tokens on)."""
import argparse
import numpy as np
from engine import engine_logits, kl, rms_over_std, top1

SETTINGS = [("none", ("--no-fp8", "--no-fp4", "--wide-rows")), ("FP8", ("--no-fp4", "--wide-rows")),
            ("FP4", ("--no-fp8", "--wide-rows")), ("FP8 and FP4, packed", ())]


def twin_logits(model, tokens, positions, options):
    from contextlib import ExitStack
    from twin import Packed, Wide, Without
    with ExitStack() as stack:
        for o in options:
            if o.startswith("--no-"): stack.enter_context(Without(o[5:]))
        m = Wide(model) if options else Packed(model)
        return m.head(m.streams(tokens)[list(positions)])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model"), ap.add_argument("archive")
    ap.add_argument("--ds4", default="./ds4"), ap.add_argument("--backend", default="ref")
    ap.add_argument("--lengths", default="1,5,130,700,2500"), ap.add_argument("--twin", action="store_true")
    a = ap.parse_args()
    z = np.load(a.archive)
    print("| tokens | round trips | reference | rms difference / std | KL (nats) | top-1 |\n|---|---|---|---|---|---|")
    for n in a.lengths.split(","):
        tokens, pos = z[f"tokens_{n}"], z[f"pos_{n}"]
        for label, options in SETTINGS:
            if a.backend != "ref" and options and not a.twin: continue       # only ref can leave a round trip out
            if a.twin: ours = twin_logits(a.model, tokens, pos, options)
            else: ours, _ = engine_logits(a.ds4, a.model, tokens, pos, a.backend, *options)
            for name, key in (("transformers", "logits_"), ("training code", "fp8kv_logits_")):
                want = z[key + n].astype(np.float64)
                e, d = rms_over_std(ours, want), kl(ours, want)
                print(f"| {n} | {label} | {name} | {np.median(e):.1e} (max {e.max():.1e}) | {np.median(d):.1e} | "
                      f"{top1(ours, want).sum()} of {len(pos)} |", flush=True)


if __name__ == "__main__":
    main()
