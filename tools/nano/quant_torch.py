"""IQ2_XXS and Q2_K quantisers in torch, for quantisation-aware training: array -> (dequantised values, packable fields)."""
import os, torch, numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
_G = {}
def grid(dev):
    if dev not in _G: _G[dev] = torch.from_numpy(np.loadtxt(os.path.join(HERE, "../reference/iq2xxs_grid.txt"), dtype=np.float32)).to(dev)
    return _G[dev]
@torch.no_grad()
def iq2_xxs(W, cand=(0.66, 0.76, 0.86, 0.96, 1.06, 1.18), chunk=8192):
    g = grid(W.device); g2 = (g * g).sum(1); pw = (1 << torch.arange(8, device=W.device)); outs = []
    for b in W.reshape(-1, 8, 4, 8).float().split(chunk):
        a, neg = b.abs(), b < 0
        odd = neg.sum(-1) % 2 == 1; weak = a.argmin(-1, keepdim=True); flip = torch.zeros_like(neg).scatter_(-1, weak, odd[..., None])
        sgn = neg ^ flip; t = torch.where(flip, -a, a); code = (sgn * pw).sum(-1) & 127
        dot = t @ g.T; amax = a.amax((-1, -2)); best = torch.full_like(amax, 1e30); S = torch.zeros_like(amax)
        for k in cand:
            s = (amax / 43 * k).clamp(min=1e-12)[..., None, None]
            gi = g[(s * g2 - 2 * dot).argmin(-1)]; s = ((gi * t).sum((-1, -2)) / (gi * gi).sum((-1, -2))).clamp(min=1e-12)
            e = ((s[..., None, None] * gi - t) ** 2).sum((-1, -2)); ok = e < best; best = torch.where(ok, e, best); S = torch.where(ok, s, S)
        d = (S.amax(1) / (15.5 * 0.25)).half(); df = d.float()[:, None]
        q = (S / (df * 0.25).clamp(min=1e-12) - 0.5).round().clamp(0, 15); s = df * 0.25 * (0.5 + q)
        i = (s[..., None, None] * g2 - 2 * dot).argmin(-1)
        outs.append((s[..., None, None] * g[i] * (1 - 2 * sgn.float()), d, q.to(torch.uint8), i.to(torch.uint8), code.to(torch.uint8)))
    cat = [torch.cat(z) for z in zip(*outs)]
    return cat[0].reshape(W.shape), cat[1:]
def _fit(x, levels, steps=8):
    lo = x.amin(-1).clamp(max=0); hi = x.amax(-1); best = torch.full_like(lo, 1e30); S = torch.zeros_like(lo); M = torch.zeros_like(lo); rng = (hi - lo).clamp(min=1e-12); n = x.shape[-1]
    for t in range(steps):
        s = rng / (levels * (1 + (t - steps // 2) * 0.07)); m = -lo
        for _ in range(2):
            q = ((x + m[..., None]) / s.clamp(min=1e-12)[..., None]).round().clamp(0, levels)
            sq, sx, sqq, sqx = q.sum(-1), x.sum(-1), (q * q).sum(-1), (q * x).sum(-1); det = n * sqq - sq * sq
            s2 = torch.where(det > 0, (n * sqx - sq * sx) / det.clamp(min=1e-9), s); m2 = (s2 * sq - sx) / n; bad = (m2 < 0) | (s2 <= 0)
            s, m = torch.where(bad, sqx.clamp(min=0) / sqq.clamp(min=1e-12), s2), torch.where(bad, torch.zeros_like(m2), m2)
        q = ((x + m[..., None]) / s.clamp(min=1e-12)[..., None]).round().clamp(0, levels); e = ((s[..., None] * q - m[..., None] - x) ** 2).sum(-1)
        ok = e < best; best = torch.where(ok, e, best); S = torch.where(ok, s, S); M = torch.where(ok, m, M)
    return S, M
@torch.no_grad()
def q2_k(W, chunk=16384):
    outs = []
    for b in W.reshape(-1, 16, 16).float().split(chunk):
        s, m = _fit(b, 3); d, dm = (s.amax(1) / 15).half(), (m.amax(1) / 15).half(); df, mf = d.float()[:, None], dm.float()[:, None]
        qs = (s / df.clamp(min=1e-12)).round().clamp(0, 15); qm = (m / mf.clamp(min=1e-12)).round().clamp(0, 15); qs = torch.where(df > 0, qs, torch.zeros_like(qs)); qm = torch.where(mf > 0, qm, torch.zeros_like(qm))
        S, M = (df * qs)[..., None], (mf * qm)[..., None]
        q = torch.where(S > 0, ((b + M) / S.clamp(min=1e-12)).round().clamp(0, 3), torch.zeros_like(b))
        outs.append((S * q - M, d, dm, qs.to(torch.uint8), qm.to(torch.uint8), q.to(torch.uint8)))
    cat = [torch.cat(z) for z in zip(*outs)]
    return cat[0].reshape(W.shape), cat[1:]
def pack_iq2(f):
    import export as X
    d, q, i, code = [t.cpu().numpy() for t in f]; return X.iq2_pack(d, q, i, code)
def pack_q2k(f):
    d, dm, qs, qm, q = [t.cpu().numpy() for t in f]; n = len(d); q = q.reshape(n, 2, 4, 32)
    qb = (q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6).reshape(n, 64)
    return np.concatenate([(qs | qm << 4), qb, d[:, None].view(np.uint8), dm[:, None].view(np.uint8)], 1)
if __name__ == "__main__":
    import sys; sys.path[:0] = [HERE, os.path.join(HERE, "../reference")]; import dsv4_ref as R
    W = torch.randn(4, 256, 256)
    for f, p, t in ((iq2_xxs, pack_iq2, 16), (q2_k, pack_q2k, 10)):
        Q, fl = f(W); y = R.dequantise(np.ascontiguousarray(p(fl)).ravel(), t); print(t, "pack error", np.abs(Q.numpy().ravel() - y).max(), "rms", ((Q - W) ** 2).mean().sqrt().item())
