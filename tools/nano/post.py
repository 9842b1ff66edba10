"""After training, on the GPU: export, reference logits (transformers, float32), test cases, samples.   post.py NANO.pt OUT [--qat]"""
import sys, json, time, os, numpy as np, torch, re
import model as N, export as X
pt, out = sys.argv[1:3]; qat = "--qat" in sys.argv; os.makedirs(out, exist_ok=True); torch.backends.cuda.matmul.allow_tf32 = False; t0 = time.time()
sd = torch.load(pt); packed = {k: v for k, v in sd.items() if k.startswith("packed")}; sd = {k: v for k, v in sd.items() if k not in packed}
c = N.Cfg(); npsd = {k: v.numpy() for k, v in sd.items()}; off = X.official(npsd, c)
if qat:                                               # the routed experts keep their exact 2-bit values
    for i in range(c.layers):
        for n in ("w1", "w2", "w3"):
            for e in range(c.experts): off[f"layers.{i}.ffn.experts.{e}.{n}.weight"] = ("F32", npsd[f"layers.{i}.ffn.{n}"][e])
    X.st_save(f"{out}/rest.safetensors", {k: v for k, v in off.items() if not re.match(r"layers\.\d+\.ffn\.experts", k)})
    np.savez(f"{out}/packed.npz", **{k: v.numpy() for k, v in packed.items()})
else: X.st_save(f"{out}/ds4-nano.safetensors", off, {"format": "pt", "about": "ds4-nano, DeepSeek V4 architecture; names as in DeepSeek's checkpoint"})
w = {k: v[1] for k, v in off.items()}; P = json.load(open("prompts.json")); P = {"heldout": [], "cases": {}, **P}       # heldout: token ids of a text it never saw; cases: kind -> [{ids, answer, alen}]
# the same rounded weights in the training model
m = N.Nano(c); new = {}
def back(s, d):
    for k in [k for k in npsd if k.startswith(s)]:
        r = k[len(s):]
        mp = {"attn_norm": "attn_norm.weight", "ffn_norm": "ffn_norm.weight", "ffn.gate": "ffn.gate.weight", "ffn.bias": "ffn.gate.bias", "ffn.tid2eid": "ffn.gate.tid2eid", "attn.attn_sink": "attn.attn_sink"}
        if r in mp: new[k] = w[d + mp[r]]
        elif r.startswith("hc_"): a, b = r.split("."); new[k] = w[d + f"{a}_{b}"]
        elif r in ("ffn.w1", "ffn.w2", "ffn.w3"): new[k] = np.stack([w[d + f"ffn.experts.{e}.{r[4:]}.weight"] for e in range(c.experts)])
        elif r in ("ffn.sw1", "ffn.sw2", "ffn.sw3"): new[k] = w[d + f"ffn.shared_experts.{r[5:]}.weight"]
        elif r.endswith("ape"): new[k] = w[d + r]
        else: new[k] = w[d + r + ".weight"]
for i in range(c.layers): back(f"layers.{i}.", f"layers.{i}.")
back("mtp.block.", "mtp.0.")
for k in ("embed", "head"): new[k] = w[k + ".weight"]
new["out.norm"] = w["norm.weight"]; new["mtp.out.norm"] = w["mtp.0.norm.weight"]
for a in ("fn", "base", "scale"): new[f"out.hc_head_{a}"] = w[f"hc_head_{a}"]; new[f"mtp.out.hc_head_{a}"] = w[f"mtp.0.hc_head_{a}"]
for a in ("e_proj", "h_proj", "enorm", "hnorm"): new["mtp." + a] = w[f"mtp.0.{a}.weight"]
assert set(new) == {k for k in m.state_dict()}, set(m.state_dict()) ^ set(new)
m.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in new.items()}, strict=False); m = m.cuda().eval(); print(f"[{time.time()-t0:.0f}s] exported", flush=True)
from tokenizers import Tokenizer
tk = Tokenizer.from_file("tokenizer.json"); dec = lambda ids: tk.decode(list(map(int, ids)), skip_special_tokens=False)
res = {}
import hf_ref
h = hf_ref.build(w, c)
with torch.no_grad():
    save = {}
    for k, ids in P["logits"].items():
        x = torch.tensor([ids], device="cuda"); lo = h(input_ids=x, use_cache=False).logits[0].float(); mine = m.logits(x)[0]; m.c.fp8_kv = False; m0 = m.logits(x)[0]; m.c.fp8_kv = True
        n = min(4, len(ids)); save[f"tokens_{k}"] = np.array(ids, np.int32); save[f"logits_{k}"] = lo[-n:].cpu().numpy(); save[f"fp8kv_logits_{k}"] = mine[-n:].cpu().numpy(); save[f"pos_{k}"] = np.arange(len(ids) - n, len(ids))
        e = lambda a: ((a[-n:] - lo[-n:]).square().mean().sqrt() / lo[-n:].std()).item()
        print("logits", k, "transformers vs model.py without FP8:", e(m0), "with FP8 KV:", e(mine), "argmax", lo[-n:].argmax(-1).tolist(), mine[-n:].argmax(-1).tolist(), flush=True)
    np.savez_compressed(f"{out}/logits.npz", **save)
    ids = torch.tensor([P["heldout"][:4096] or P["logits"]["2500"]], device="cuda"); lo = h(input_ids=ids, use_cache=False).logits[0].float(); nll = torch.nn.functional.cross_entropy(lo[:-1], ids[0, 1:]).item()
    m.c.fp8_kv = True; nll8 = torch.nn.functional.cross_entropy(m.logits(ids)[0, :-1], ids[0, 1:]).item(); res["heldout"] = dict(tokens=ids.shape[1], nll=nll, ppl=float(np.exp(nll)), nll_fp8kv=nll8); print("held-out", res["heldout"], flush=True)
    g = []
    for ch in P["chats"]:
        if ch["name"] not in P["greedy"] or qat: continue
        x = torch.tensor([ch["ids"]], device="cuda"); o = h(input_ids=x, use_cache=True); new_ids = []; margin = []
        for _ in range(48):
            l = o.logits[0, -1].float(); v, i = l.topk(2); new_ids.append(i[0].item()); margin.append((v[0] - v[1]).item())
            if new_ids[-1] == 1: break
            o = h(input_ids=i[:1][None], past_key_values=o.past_key_values, use_cache=True)
        g.append(dict(name=ch["name"], prompt=ch["text"], prompt_ids=ch["ids"], ids=new_ids, text=dec(new_ids), margins=[round(q, 4) for q in margin])); print(f"[{time.time()-t0:.0f}s]", ch["name"], "|", dec(new_ids)[:150].replace("\n", "\\n"), "| least margin", round(min(margin), 3), flush=True)
    json.dump(g, open(f"{out}/greedy.json", "w"), ensure_ascii=False, indent=1)
    del h; torch.cuda.empty_cache(); torch.backends.cuda.matmul.allow_tf32 = True
    @torch.no_grad()
    def generate(rows, max_new, temp=0.0, top_p=0.95, seed=0):
        """rows of ids, decoded together by recomputing everything (simple, batched)."""
        gen = torch.Generator("cuda").manual_seed(seed); done = [False] * len(rows); rows = [list(q) for q in rows]; n0 = [len(q) for q in rows]
        for _ in range(max_new):
            act = [i for i, d in enumerate(done) if not d]
            if not act: break
            L = -(-max(len(rows[i]) for i in act) // 128) * 128; x = torch.full((len(act), L), 2, dtype=torch.long)
            for j, i in enumerate(act): x[j, :len(rows[i])] = torch.tensor(rows[i])
            x = x.cuda(); doc = torch.zeros_like(x); tabs = m.tables(L, "cuda"); st, _, _ = m.streams(x, doc, tabs, torch.zeros((), dtype=torch.bool, device="cuda"), torch.bfloat16 if L > 1500 else torch.float32)
            last = torch.tensor([len(rows[i]) - 1 for i in act], device="cuda"); s = st[torch.arange(len(act), device="cuda"), last][:, None]; lo = N.lin(m.out(s), m.head)[:, 0].float()
            if temp > 0:
                p = torch.softmax(lo / temp, -1); sp, si = p.sort(-1, descending=True); keep = sp.cumsum(-1) - sp < top_p; sp = sp * keep; nx = si.gather(1, torch.multinomial(sp / sp.sum(-1, keepdim=True), 1, generator=gen))[:, 0]
            else: nx = lo.argmax(-1)
            for i, t in zip(act, nx.tolist()):
                rows[i].append(t)
                if t == 1: done[i] = True
        return [q[n:] for q, n in zip(rows, n0)], rows
    acc = {}; wrong = []
    for kind, cs in P["cases"].items():
        cs = sorted(cs, key=lambda q: len(q["ids"])); ok = 0; step = 20 if kind == "needle-long" else 80
        for b in range(0, len(cs), step):
            part = cs[b:b + step]; o, _ = generate([q["ids"] for q in part], min(90, max(q["alen"] for q in part) + 4))
            for q, a in zip(part, o):
                txt = dec(a); good = txt.strip() == q["answer"].strip(); ok += good
                if not good and len([v for v in wrong if v[0] == kind]) < 6: wrong.append((kind, dec(q["ids"])[-160:], q["answer"], txt))
        acc[kind] = round(ok / len(cs), 3)
    res["exact_match"] = acc; print(f"[{time.time()-t0:.0f}s] exact match", acc, flush=True); json.dump(wrong, open(f"{out}/wrong.json", "w"), ensure_ascii=False, indent=1)
    gr, full = generate([q["ids"] for q in P["chats"]], 220); sa, _ = generate([q["ids"] for q in P["chats"]], 220, 0.8, 0.95, 1)
    hit = tot = 0
    for f, q in zip(full, P["chats"]):
        a, d = m.logits(torch.tensor([f], device="cuda"), draft=True); n0 = len(q["ids"]); tr = torch.tensor(f, device="cuda"); idx = torch.arange(n0 - 1, len(f) - 2, device="cuda")
        hit += (d[0, idx].argmax(-1) == tr[idx + 2]).sum().item(); tot += len(idx)
    res["mtp_acceptance"] = dict(greedy_accepted=hit, of=tot, rate=round(hit / max(1, tot), 4)); print("MTP", res["mtp_acceptance"])
    json.dump([dict(name=q["name"], mode=q["mode"], prompt=q["text"], greedy=dec(a), sampled=dec(b)) for q, a, b in zip(P["chats"], gr, sa)], open(f"{out}/samples.json", "w"), ensure_ascii=False, indent=1)
    for q, a in zip(P["chats"], gr): print(q["name"], "|", dec(a)[:260].replace("\n", "\\n"))
json.dump(res, open(f"{out}/results.json", "w"), indent=1); print(f"[{time.time()-t0:.0f}s] done", flush=True)
