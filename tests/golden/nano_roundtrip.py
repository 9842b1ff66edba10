#!/usr/bin/env python3
"""ds4-nano's checkpoint through `ds4 quantize` and back: tables for docs/quality.md.

    nano_roundtrip.py ds4-nano.safetensors greedy-bf16.json [--config nano_config.json] [--tokenizer tokenizer.json]
                      [--ds4 ./ds4] [--backend ref] [--work DIR] [--imatrix FILE] [--recipes f16,q8,q4,q2]

Neither file is in the repository (102 MB); they come with the model's training.  greedy-bf16.json holds greedy answers of
the same weights, computed elsewhere, with the margin between the best and the second best logit at each step.

For each recipe: makes the file, feeds every prompt with its stored answer, and compares the best token of each step with
the stored one (teacher-forced, so that one difference does not spoil the rest) and the logits with those of the f16 file.
A step counts as wrong only where the stored margin exceeds the rounding difference: the largest change that the margin of a
step sees between the stored one and that of the f16 file, over all steps where both have the same best token.
Ends with status 1 when the f16 file has a wrong step."""
import argparse, json, subprocess, sys
from pathlib import Path
import numpy as np
from engine import engine_logits, kl, rms_over_std

HERE = Path(__file__).resolve().parent


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("checkpoint"), ap.add_argument("greedy")
    ap.add_argument("--config", default=HERE / "../../tools/nano/nano_config.json")
    ap.add_argument("--tokenizer", default=HERE / "../../tools/nano/tokenizer.json")
    ap.add_argument("--ds4", default="./ds4"), ap.add_argument("--backend", default="ref")
    ap.add_argument("--work", default="/tmp/ds4-roundtrip"), ap.add_argument("--imatrix")
    ap.add_argument("--recipes", default="f16,q8,q4,q2")
    a = ap.parse_args()
    cases, work = json.load(open(a.greedy)), Path(a.work)
    work.mkdir(parents=True, exist_ok=True)
    files = {r: work / f"nano-{r}.gguf" for r in a.recipes.split(",")}
    if a.imatrix: files.update({f"{r} + imatrix": work / f"nano-{r}-imatrix.gguf" for r in files if r.startswith("q")})
    print("| recipe | MB | rms difference / std | KL to f16 (nats) | steps | other best token | of these above the rounding |"
          "\n|---|---|---|---|---|---|---|")
    want, bad, rounding = {}, 0, None
    for label, file in files.items():
        command = [a.ds4, "quantize", a.checkpoint, str(file), "--recipe", label.split()[0], "--config", str(a.config),
                   "--tokenizer", str(a.tokenizer), "--force"]
        if "imatrix" in label: command += ["--imatrix", a.imatrix]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        differences, rms, d, same, steps = [], [], [], [], 0
        for case in cases:
            prompt, ids = case["prompt_ids"], case["ids"]
            tokens, first = prompt + ids[:-1], len(prompt) - 1
            z, _ = engine_logits(a.ds4, file, tokens, range(first, first + len(ids)), a.backend)
            base = want.setdefault(case["name"], z)
            rms.extend(rms_over_std(z, base)), d.extend(kl(z, base))
            two = np.sort(z, -1)[:, -2:]
            for best, id, margin, ours in zip(z.argmax(-1), ids, case["margins"], two[:, 1] - two[:, 0]):
                steps += 1
                if best != id: differences.append(margin)
                else: same.append(abs(ours - margin))
        if rounding is None: rounding = max(same)
        wrong = sum(m > rounding for m in differences)
        if label == "f16": bad, note = wrong, [f"{m:.3f}" for m in sorted(differences)]
        print(f"| {label} | {file.stat().st_size / 1e6:.1f} | {np.median(rms):.1e} | {np.mean(d):.1e} | {steps} | "
              f"{len(differences)} | {wrong} |", flush=True)
        if label == "f16": print(f"f16: margin changes median {np.median(same):.4f}, 99 % {np.quantile(same, .99):.3f}, "
              f"largest {rounding:.3f}; stored margins where the best token differs: {' '.join(note) or 'none'}",
              file=sys.stderr)
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
