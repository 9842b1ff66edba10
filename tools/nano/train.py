#!/usr/bin/env python3
"""Train ds4-nano on one GPU.   train.py --seconds 1100 --out DIR [--resume CKPT] [--debug]
Data comes from worker processes that run make_data.py's generator without end (fresh documents all the time)."""
import argparse, json, math, os, random, sys, tempfile, time, threading, queue, multiprocessing as mp
HERE = os.path.dirname(os.path.abspath(__file__)); sys.path.insert(0, HERE)
import numpy as np
T = 4096
PAD = 2
# ------------------------------------------------------------------ data workers
def flags(ids, sp):
    """Loss class of each token: 2 full weight, 1 prompt."""
    A, EOS, BOS, th, eth = sp["<｜Assistant｜>"], 1, 0, sp["<think>"], sp["</think>"]
    f = np.ones(len(ids), np.uint8)
    if A not in ids: f[:] = 2; f[0] = 1; return f
    on = False; prev = -1
    for i, t in enumerate(ids):
        if on and not (prev == A and t in (th, eth)): f[i] = 2
        if t == A: on = True
        elif t == EOS: on = False
        prev = t
    return f
def make_encoder():
    try:
        from tokenizers import Tokenizer
        tk = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json")); enc = lambda s: tk.encode(s, add_special_tokens=False).ids
    except ImportError:
        import bpe; tk = bpe.Tok(os.path.join(HERE, "tokenizer.json")); enc = tk.encode
    sp = {a["content"]: a["id"] for a in json.load(open(os.path.join(HERE, "tokenizer.json")))["added_tokens"]}
    return enc, sp
def pack(docs, n_seq, bins):
    """docs [(ids, flags)] best fit into n_seq sequences of T tokens; leftover docs stay in the list."""
    ids = np.full((n_seq, T), PAD, np.uint16); fl = np.zeros((n_seq, T), np.uint8); doc = np.zeros((n_seq, T), np.int16); fill = [0] * n_seq
    rest = []
    for a, f in docs:
        n = min(len(a), T); room = [(T - q, i) for i, q in enumerate(fill) if T - q >= n]
        if not room: rest.append((a, f)); continue
        i = min(room)[1]; s = fill[i]; e = min(T, s + (n + 3) // 4 * 4)
        ids[i, s:s + n] = a[:n]; fl[i, s:s + n] = f[:n]; doc[i, s:e] = s; fill[i] = e
    for i, q in enumerate(fill): doc[i, q:] = min(q, T - 1)
    return ids, fl, doc, rest
def worker(wid, seed, folder, n_seq, long_share, limit):
    import make_data as D
    os.nice(5)
    enc, sp = make_encoder(); r = random.Random(seed * 1000 + wid); k = 0; pend = []
    while limit is None or k < limit:
        while limit is None and len(os.listdir(folder)) > 120: time.sleep(0.3)
        want = n_seq * T * 1.06 - sum(len(a) for a, _ in pend)
        while want > 0:
            d = D.document(r, D.MIX_LONG if r.random() < long_share else D.MIX); a = enc(d)
            if len(a) < 4: continue
            pend.append((np.array(a, np.uint16), flags(a, sp))); want -= len(a)
        pend.sort(key=lambda p: -len(p[0])); ids, fl, doc, pend = pack(pend, n_seq, None)
        tmp = f"{folder}/.{wid}_{k}.npz"; np.savez(tmp, ids=ids, fl=fl, doc=doc); os.rename(tmp, f"{folder}/{k:06d}_{wid}.npz"); k += 1
class Loader:
    def __init__(s, folder, batch, device):
        s.folder, s.batch, s.device = folder, batch, device; s.q = queue.Queue(8); s.waits = 0
        threading.Thread(target=s.run, daemon=True).start()
    def run(s):
        import torch
        pool = None; rng = np.random.default_rng(0)
        while True:
            names = sorted(n for n in os.listdir(s.folder) if n[0] != ".")
            if not names and (pool is None or len(pool[0]) < s.batch): s.waits += 1; time.sleep(0.02); continue
            while names and (pool is None or len(pool[0]) < 256):
                p = f"{s.folder}/{names.pop(0)}"; z = np.load(p); new = [z["ids"], z["fl"], z["doc"]]; z.close(); os.remove(p)
                pool = new if pool is None else [np.concatenate([a, b]) for a, b in zip(pool, new)]
            pick = rng.permutation(len(pool[0])); take, keep = pick[:s.batch], np.sort(pick[s.batch:])
            b = [a[take] for a in pool]; pool = [a[keep] for a in pool]
            s.q.put([torch.from_numpy(a.astype(np.int64 if i != 1 else np.uint8)).pin_memory() for i, a in enumerate(b)])
    def next(s): return [t.to(s.device, non_blocking=True) for t in s.q.get()]
def targets(ids, fl, doc, W):
    """-> next, weight of next, after-next, its weight"""
    import torch, torch.nn.functional as F
    w = W[fl.long()]
    sh = lambda a, k, v: F.pad(a[:, k:], (0, k), value=v)
    t1, t2 = sh(ids, 1, PAD), sh(ids, 2, PAD)
    w1 = sh(w, 1, 0) * (sh(doc, 1, -1) == doc); w2 = sh(w, 2, 0) * (sh(doc, 2, -1) == doc)
    return t1, w1, t2, w2
# ------------------------------------------------------------------ Sinkhorn as one kernel
def install_sinkhorn(torch, model):
    import triton, triton.language as tl
    global tl_, _sk_f, _sk_b
    src = '''
import triton, triton.language as tl
@triton.jit
def _sk_f(Z, Y, n, eps, ITERS: tl.constexpr, BLK: tl.constexpr):
    r = tl.program_id(0) * BLK + tl.arange(0, BLK); i = tl.arange(0, 4)
    off = r[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]; m = (r < n)[:, None, None]
    c = tl.load(Z + off, mask=m, other=0.0)
    c = tl.exp(c - tl.max(c, axis=2)[:, :, None]); c = c / tl.sum(c, axis=2)[:, :, None] + eps
    c = c / (tl.sum(c, axis=1)[:, None, :] + eps)
    for k in range(ITERS - 1):
        c = c / (tl.sum(c, axis=2)[:, :, None] + eps)
        c = c / (tl.sum(c, axis=1)[:, None, :] + eps)
    tl.store(Y + off, c, mask=m)
@triton.jit
def _sk_b(Z, G, GZ, D, n, eps, ITERS: tl.constexpr, BLK: tl.constexpr):
    r = tl.program_id(0) * BLK + tl.arange(0, BLK); i = tl.arange(0, 4)
    off = r[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]; m = (r < n)[:, None, None]
    o4 = r[:, None] * 4 + i[None, :]; m4 = (r < n)[:, None]
    c = tl.load(Z + off, mask=m, other=0.0)
    c = tl.exp(c - tl.max(c, axis=2)[:, :, None]); s0 = c / tl.sum(c, axis=2)[:, :, None]; c = s0 + eps
    d = tl.sum(c, axis=1) + eps; tl.store(D + o4, d, mask=m4); c = c / d[:, None, :]
    for k in range(ITERS - 1):
        d = tl.sum(c, axis=2) + eps; tl.store(D + (2 * k + 1) * n * 4 + o4, d, mask=m4); c = c / d[:, :, None]
        d = tl.sum(c, axis=1) + eps; tl.store(D + (2 * k + 2) * n * 4 + o4, d, mask=m4); c = c / d[:, None, :]
    g = tl.load(G + off, mask=m, other=0.0)
    tl.debug_barrier()
    for q in range(ITERS - 1):
        k = ITERS - 2 - q
        d = tl.load(D + (2 * k + 2) * n * 4 + o4, mask=m4, other=1.0)
        g = (g - tl.sum(g * c, axis=1)[:, None, :]) / d[:, None, :]; c = c * d[:, None, :]
        d = tl.load(D + (2 * k + 1) * n * 4 + o4, mask=m4, other=1.0)
        g = (g - tl.sum(g * c, axis=2)[:, :, None]) / d[:, :, None]; c = c * d[:, :, None]
    d = tl.load(D + o4, mask=m4, other=1.0)
    g = (g - tl.sum(g * c, axis=1)[:, None, :]) / d[:, None, :]
    g = s0 * (g - tl.sum(g * s0, axis=2)[:, :, None])
    tl.store(GZ + off, g, mask=m)
'''
    folder = tempfile.mkdtemp(); open(folder + "/nano_sinkhorn.py", "w").write(src); sys.path.insert(0, folder); import nano_sinkhorn as K
    @torch.library.custom_op("nano::sk_f", mutates_args=())
    def sk_f(z: torch.Tensor, iters: int, eps: float) -> torch.Tensor:
        z = z.contiguous(); y = torch.empty_like(z); n = z.numel() // 16
        K._sk_f[(triton.cdiv(n, 64),)](z, y, n, eps, iters, 64); return y
    @sk_f.register_fake
    def _(z, iters, eps): return torch.empty_like(z, memory_format=torch.contiguous_format)
    @torch.library.custom_op("nano::sk_b", mutates_args=())
    def sk_b(z: torch.Tensor, g: torch.Tensor, iters: int, eps: float) -> torch.Tensor:
        z, g = z.contiguous(), g.contiguous(); y = torch.empty_like(z); n = z.numel() // 16; D = torch.empty((2 * iters - 1) * n * 4, device=z.device)
        K._sk_b[(triton.cdiv(n, 64),)](z, g, y, D, n, eps, iters, 64); return y
    @sk_b.register_fake
    def _(z, g, iters, eps): return torch.empty_like(z, memory_format=torch.contiguous_format)
    def setup(ctx, inputs, output): ctx.save_for_backward(inputs[0]); ctx.it, ctx.eps = inputs[1], inputs[2]
    def back(ctx, g): return sk_b(ctx.saved_tensors[0], g, ctx.it, ctx.eps), None, None
    sk_f.register_autograd(back, setup_context=setup)
    model.sinkhorn = lambda z, iters, eps: sk_f(z.float(), iters, eps)
    z = torch.randn(1000, 4, 4, device="cuda", requires_grad=True); a = model.sinkhorn_torch(z, 20, 1e-6); g = torch.randn_like(a); ga, = torch.autograd.grad(a, z, g)
    b = model.sinkhorn(z, 20, 1e-6); gb, = torch.autograd.grad(b, z, g)
    print("sinkhorn kernel: forward err", (a - b).abs().max().item(), "gradient err", (ga - gb).abs().max().item() / ga.abs().max().item(), flush=True)
# ------------------------------------------------------------------ Muon
class Muon:
    """Momentum, Newton-Schulz orthogonalisation, update scaled to AdamW's size (0.2*sqrt(max side)), weight decay."""
    def __init__(s, torch, named, wd=0.1, mom=0.95):
        s.t, s.wd, s.mom, s.groups = torch, wd, mom, {}
        for n, p in named:
            v = s.view(n, p.data); s.groups.setdefault(tuple(v.shape[-2:]), []).append((n, p))
        s.state = {p: torch.zeros_like(p) for ps in s.groups.values() for _, p in ps}
        s.cast = {k: torch.cat([s.view(n, p.data) for n, p in ps]).shape for k, ps in s.groups.items()}
    @staticmethod
    def view(n, v):
        if n.endswith("attn.wq_b"): return v.view(8, -1, v.shape[-1]) if "indexer" not in n else v.view(8, -1, v.shape[-1])
        if n.endswith("wo_a"): return v.view(4, -1, v.shape[-1])
        if v.dim() == 3: return v
        if v.shape[0] == 1024 and v.shape[1] == 256: return v.view(2, 512, 256)
        return v[None]
    def step(s, lr):
        t = s.t
        for shape, ps in s.groups.items():
            gs = [p.grad for _, p in ps]; ms = [s.state[p] for _, p in ps]
            t._foreach_mul_(ms, s.mom); t._foreach_add_(ms, gs)
            up = t._foreach_add(gs, ms, alpha=s.mom)                              # Nesterov
            x = t.cat([s.view(n, u) for (n, _), u in zip(ps, up)]).bfloat16(); tr = shape[0] > shape[1]
            if tr: x = x.transpose(1, 2)
            x = x / (x.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
            for a, b, c in ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)):
                A = x @ x.transpose(1, 2); x = a * x + (b * A + c * (A @ A)) @ x
            if tr: x = x.transpose(1, 2)
            x = x.float() * (0.2 * max(shape) ** 0.5); i = 0; us = []
            for n, p in ps: k = s.view(n, p.data).shape[0]; us.append(x[i:i + k].reshape(p.shape)); i += k
            data = [p.data for _, p in ps]
            t._foreach_mul_(data, 1 - lr * s.wd); t._foreach_add_(data, us, alpha=-lr)
def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--seconds", type=float, default=600); ap.add_argument("--out", default="out"); ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--lr", type=float, default=3e-3); ap.add_argument("--workers", type=int, default=9); ap.add_argument("--debug", action="store_true"); ap.add_argument("--resume"); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--steps", type=int); ap.add_argument("--qat", action="store_true")
    a = ap.parse_args(); os.makedirs(a.out, exist_ok=True); t00 = time.time()
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None); vfolder = folder + "v"; os.makedirs(vfolder)
    ctx = mp.get_context("spawn"); procs = [ctx.Process(target=worker, args=(i, a.seed, folder, 32, 0.035, None), daemon=True) for i in range(a.workers)]
    procs.append(ctx.Process(target=worker, args=(77, 999, vfolder, 32, 0.035, 1), daemon=True))
    for p in procs: p.start()
    import torch, torch.nn.functional as F, model
    torch.manual_seed(a.seed); dev = "cuda"; torch.backends.cuda.matmul.allow_tf32 = True; torch.set_float32_matmul_precision("high")
    install_sinkhorn(torch, model)
    import torch._dynamo, torch._inductor.config as ic
    torch._dynamo.config.recompile_limit = 64; torch._dynamo.config.accumulated_recompile_limit = 512
    c = model.Cfg(); m = model.Nano(c).to(dev)
    if a.resume: m.load_state_dict(torch.load(a.resume, map_location=dev), strict=False)
    print(f"[{time.time() - t00:.0f}s] {sum(p.numel() for p in m.parameters()) / 1e6:.2f} M parameters", flush=True)
    for b in list(m.layers) + [m.mtp.block]: b.compile(dynamic=False)
    def head_loss(x, out, head, tgt, w):
        lo = model.lin(out(x), head).float().reshape(-1, c.vocab)
        ce = F.cross_entropy(lo, tgt.reshape(-1), reduction="none"); w = w.reshape(-1)
        return (ce * w).sum() / w.sum().clamp(min=1), ce
    head_loss = torch.compile(head_loss, dynamic=False)
    tabs = m.tables(T, dev); dense = torch.ones((), dtype=torch.bool, device=dev); W = torch.tensor([0.0, 0.1, 1.0], device=dev)
    muon_n, adam_n = [], []
    for n, p in m.named_parameters():
        big = p.dim() >= 2 and not any(k in n for k in ("embed", "head", "hc_", "ape", "gate", "weights_proj")) or n.endswith("wgate")
        (muon_n if big else adam_n).append((n, p))
    mu = Muon(torch, muon_n)
    emb = [p for n, p in adam_n if n in ("embed", "head")]; oth = [p for n, p in adam_n if n not in ("embed", "head")]
    ad = torch.optim.AdamW([dict(params=emb, weight_decay=0.01), dict(params=oth, weight_decay=0.0)], lr=1e-3, betas=(0.9, 0.95), eps=1e-10, fused=True)
    print("muon groups", {k: len(v) for k, v in mu.groups.items()}, "adam", sum(p.numel() for _, p in adam_n) / 1e6, flush=True)
    biases = [b.ffn for b in list(m.layers) + [m.mtp.block] if not b.ffn.hashed]
    L = Loader(folder, a.batch, dev); hist = []
    def forward(ids, fl, doc):
        t1, w1, t2, w2 = targets(ids, fl, doc, W)
        x, kls, loads = m.streams(ids, doc, tabs, dense, torch.bfloat16)
        l1, ce = head_loss(x, m.out, m.head, t1, w1)
        y, _, ld = m.draft_streams(x, t1, doc, tabs, dense)
        l2, _ = head_loss(y, m.mtp.out, m.head, t2, w2)
        return l1, l2, sum(kls) / 3, [l for l, b in zip(loads, m.layers) if not b.ffn.hashed] + [ld], ce, w1
    V = []; old = [None] * 64
    def validate():
        while not V:
            names = [n for n in os.listdir(vfolder) if n[0] != "."]
            if names: z = np.load(f"{vfolder}/{names[0]}"); V.extend(torch.from_numpy(z[k].astype(np.int64)).to(dev) for k in ("ids", "fl", "doc"))
            else: time.sleep(0.2)
        s = np.zeros(4)
        for i in range(0, 32, a.batch):                # gradients stay on: the compiled graphs are those of training
            b = [v[i:i + a.batch] for v in V]; l1, l2, kl, _, ce, w1 = forward(*b); s += [l1.item(), l2.item(), kl.item(), 1]
        return s[:3] / s[3]
    qs = []                                            # quantisation-aware phase: latent weights of the routed experts beside their 2-bit values
    if a.qat:
        import quant_torch as Q
        for b in m.layers:
            for n, f in (("w1", Q.iq2_xxs), ("w3", Q.iq2_xxs), ("w2", Q.q2_k)): p = getattr(b.ffn, n); qs.append((p, p.data.clone(), f))
        v = validate(); print("validation before quantisation", v.round(4).tolist(), flush=True)
        for p, lat, f in qs: p.data.copy_(f(lat)[0])
        v = validate(); print("validation with plain 2-bit experts", v.round(4).tolist(), flush=True); t0 = time.time(); tk0 = 0
    if not a.qat: t0 = None
    step = 0; tok = 0; tlog = time.time(); acc = torch.zeros(3, device=dev); nacc = 0
    total = a.seconds; log = open(f"{a.out}/log.jsonl", "w")
    while True:
        now = time.time(); fr = (now - t0) / total if t0 else 0.0
        if a.steps and step >= a.steps or fr >= 1: break
        warm = min(1, (step + 1) / 150); dec = 1.0 if fr < 0.45 else max(0.015, (1 - fr) / 0.55)
        if a.qat: dec = max(0.02, 1 - fr)
        lr = a.lr * warm * dec; dense.fill_(fr < 0.35 and not a.qat)
        b = L.next(); l1, l2, kl, loads, _, _ = forward(*b)
        (l1 + (0.3 if fr < 0.6 else 0.15) * l2 + kl).backward()
        with torch.no_grad():
            gn = torch.nn.utils.clip_grad_norm_([p for _, p in adam_n], 1.0)
            for g in ad.param_groups: g["lr"] = lr if g["weight_decay"] else lr * 0.7
            for p, lat, f in qs: p.data.copy_(lat)
            ad.step(); mu.step(lr); m.zero_grad(set_to_none=True)
            for i, (p, lat, f) in enumerate(qs):
                lat.copy_(p.data); old[i] = f(lat)[0] if i // 3 == step % 8 or old[i] is None else old[i]; p.data.copy_(old[i])
            for f, l in zip(biases, loads): f.bias += 0.002 * dec * torch.sign(l.mean() - l)
        acc += torch.stack([l1.detach(), l2.detach(), kl.detach()]); nacc += 1; step += 1; tok += b[0].numel()
        if step == 1: torch.cuda.synchronize(); print(f"[{time.time() - t00:.0f}s] first step done, peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)
        if step == 6 and not a.qat: torch.cuda.synchronize(); t0 = time.time(); tok = 0; tlog = t0; tk0 = 0
        if step % (10 if a.debug else 100) == 0:
            v = (acc / nacc).tolist(); acc.zero_(); nacc = 0; n = time.time(); rate = (tok - tk0) / (n - tlog) if t0 else 0; tlog = n; tk0 = tok
            ld = torch.stack(loads).amax().item() / (c.active / c.experts)
            e = dict(step=step, t=round(n - (t0 or n), 1), Mtok=round(tok / 1e6, 1), loss=round(v[0], 4), mtp=round(v[1], 4), kl=round(v[2], 4), lr=round(lr, 6), rate=int(rate), gn=round(gn.item(), 2), load=round(ld, 2), waits=L.waits)
            log.write(json.dumps(e) + "\n"); log.flush(); print(json.dumps(e), flush=True)
        if not a.debug and step % 1500 == 0: v = validate(); print("validation", step, v.round(4).tolist(), flush=True); log.write(json.dumps(dict(step=step, val=v.round(4).tolist())) + "\n")
    for p, lat, f in qs: p.data.copy_(f(lat)[0])
    v = validate(); print(f"[{time.time() - t00:.0f}s] final validation loss, mtp, kl:", v.round(4).tolist(), "steps", step, "tokens", tok, "peak GB", torch.cuda.max_memory_allocated() / 1e9, flush=True)
    log.write(json.dumps(dict(step=step, val=v.round(4).tolist(), tokens=tok, seconds=time.time() - t0)) + "\n"); log.close()
    sd = {k: p.cpu() for k, p in m.state_dict().items()}
    if a.qat:                                          # the packed bytes of the 2-bit experts, so that nothing is quantised twice
        for b, i in zip(m.layers, range(99)):
            for n, f, pk in (("w1", Q.iq2_xxs, Q.pack_iq2), ("w3", Q.iq2_xxs, Q.pack_iq2), ("w2", Q.q2_k, Q.pack_q2k)):
                lat = [l for p, l, _ in qs if p is getattr(b.ffn, n)][0]; val, fields = f(lat); assert torch.equal(val, getattr(b.ffn, n).data)
                sd[f"packed.{i}.{n}"] = torch.from_numpy(np.ascontiguousarray(pk(fields)))
    torch.save(sd, f"{a.out}/nano.pt")
    for p in procs: p.terminate()
    import shutil; shutil.rmtree(folder, ignore_errors=True); shutil.rmtree(vfolder, ignore_errors=True)
    print("saved", flush=True); os._exit(0)
if __name__ == "__main__": main()
