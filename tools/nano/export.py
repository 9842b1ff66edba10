#!/usr/bin/env python3
"""ds4-nano's exporter: state -> GGUF (ds4's tensor names) and safetensors (DeepSeek's checkpoint names).
numpy only.   export.py WEIGHTS.safetensors OUTDIR [f16 q8 q4 q2]     (WEIGHTS as written by save_official)

Rounding: master() makes every matrix value exact in both bfloat16 and float16, so the f16 GGUF and the bf16
safetensors hold the same numbers.  The quantised files are made from those values."""
import json, struct, sys, os
import numpy as np
HERE = os.path.dirname(os.path.abspath(__file__))
F32, F16, Q8_0, Q2_K, Q4_K, IQ2_XXS, I32, BF16 = 0, 1, 8, 10, 12, 16, 26, 30
def bf16(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
def master(x): return bf16(np.asarray(x, np.float32)).astype(np.float16).astype(np.float32)
# ------------------------------------------------------------------ safetensors
def st_save(path, tensors, meta=None):
    head, off = {"__metadata__": meta or {}}, 0
    for n, (dt, a) in tensors.items():
        nb = a.size * {"BF16": 2, "F32": 4, "I32": 4, "F16": 2}[dt]
        head[n] = {"dtype": dt, "shape": list(a.shape), "data_offsets": [off, off + nb]}; off += nb
    h = json.dumps(head).encode(); h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h)
        for n, (dt, a) in tensors.items():
            if dt == "BF16": f.write((bf16(a).view(np.uint32) >> 16).astype("<u2").tobytes())
            else: f.write(a.astype({"F32": "<f4", "I32": "<i4", "F16": "<f2"}[dt]).tobytes())
def st_load(path):
    b = open(path, "rb").read(); n, = struct.unpack("<Q", b[:8]); head = json.loads(b[8:8 + n]); out = {}
    for k, v in head.items():
        if k == "__metadata__": continue
        raw = b[8 + n + v["data_offsets"][0]: 8 + n + v["data_offsets"][1]]
        if v["dtype"] == "BF16": a = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else: a = np.frombuffer(raw, {"F32": "<f4", "I32": "<i4", "F16": "<f2"}[v["dtype"]]).astype(np.int32 if v["dtype"] == "I32" else np.float32)
        out[k] = a.reshape(v["shape"])
    return out
def official(sd, c):
    """State dict of model.Nano (numpy) -> {official name: (dtype, array)}."""
    o = {}
    M = lambda n, a: o.__setitem__(n, ("BF16", master(a)))
    V = lambda n, a: o.__setitem__(n, ("F32", np.asarray(a, np.float32)))
    def block(s, d, ratio, hashed):
        for a, b in (("hc_attn", "hc_attn"), ("hc_ffn", "hc_ffn")):
            V(d + a + "_fn", master(sd[s + b + ".fn"])); V(d + a + "_base", sd[s + b + ".base"]); V(d + a + "_scale", sd[s + b + ".scale"])
        M(d + "attn_norm.weight", sd[s + "attn_norm"]); M(d + "ffn_norm.weight", sd[s + "ffn_norm"])
        for n in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"): M(d + f"attn.{n}.weight", sd[s + "attn." + n])
        M(d + "attn.q_norm.weight", sd[s + "attn.q_norm"]); M(d + "attn.kv_norm.weight", sd[s + "attn.kv_norm"]); V(d + "attn.attn_sink", sd[s + "attn.attn_sink"])
        def comp(p):
            V(d + p + "ape", master(sd[s + p + "ape"])); M(d + p + "wkv.weight", sd[s + p + "wkv"]); M(d + p + "wgate.weight", sd[s + p + "wgate"]); M(d + p + "norm.weight", sd[s + p + "norm"])
        if ratio: comp("attn.compressor.")
        if ratio == 4:
            M(d + "attn.indexer.wq_b.weight", sd[s + "attn.indexer.wq_b"]); M(d + "attn.indexer.weights_proj.weight", sd[s + "attn.indexer.weights_proj"]); comp("attn.indexer.compressor.")
        M(d + "ffn.gate.weight", sd[s + "ffn.gate"])
        if hashed: o[d + "ffn.gate.tid2eid"] = ("I32", np.asarray(sd[s + "ffn.tid2eid"], np.int32))
        else: V(d + "ffn.gate.bias", sd[s + "ffn.bias"])
        for e in range(c.experts):
            for n in ("w1", "w2", "w3"): M(d + f"ffn.experts.{e}.{n}.weight", sd[s + "ffn." + n][e])
        for n in ("w1", "w2", "w3"): M(d + f"ffn.shared_experts.{n}.weight", sd[s + "ffn.s" + n])
    M("embed.weight", sd["embed"])
    for i, r in enumerate(c.ratios): block(f"layers.{i}.", f"layers.{i}.", r, i < c.n_hash)
    V("hc_head_fn", master(sd["out.hc_head_fn"])); V("hc_head_base", sd["out.hc_head_base"]); V("hc_head_scale", sd["out.hc_head_scale"])
    M("norm.weight", sd["out.norm"]); M("head.weight", sd["head"])
    d = "mtp.0."; block("mtp.block.", d, 0, False)
    for n in ("e_proj", "h_proj", "enorm", "hnorm"): M(d + n + ".weight", sd["mtp." + n])
    V(d + "hc_head_fn", master(sd["mtp.out.hc_head_fn"])); V(d + "hc_head_base", sd["mtp.out.hc_head_base"]); V(d + "hc_head_scale", sd["mtp.out.hc_head_scale"]); M(d + "norm.weight", sd["mtp.out.norm"])
    return o
# ------------------------------------------------------------------ quantisers: float array [..., n] -> bytes array of blocks
def q8_0(x):
    b = x.reshape(-1, 32).astype(np.float32); d = (np.abs(b).max(1) / 127).astype(np.float16); df = d.astype(np.float32)[:, None]
    q = np.rint(np.divide(b, df, out=np.zeros_like(b), where=df > 0)).clip(-127, 127).astype(np.int8)
    return np.concatenate([d[:, None].view(np.uint8), q.view(np.uint8)], 1)
def _fit(x, levels, steps=12):
    """Per row: least-squares x ~ s*q - m, q in 0..levels, s >= 0, m >= 0.  x [n,k] -> s [n], m [n]"""
    lo, hi = np.minimum(x.min(1), 0), x.max(1); best = np.full(len(x), np.inf); S = np.zeros(len(x)); Mn = np.zeros(len(x))
    rng = np.maximum(hi - lo, 1e-12)
    for t in range(steps):
        f = 1.0 + (t - steps // 2) * 0.04
        s = rng / (levels * f); m = -lo
        for _ in range(2):
            q = np.rint((x + m[:, None]) / np.maximum(s, 1e-12)[:, None]).clip(0, levels)
            sq, sx, sqq, sqx, n = q.sum(1), x.sum(1), (q * q).sum(1), (q * x).sum(1), x.shape[1]
            det = n * sqq - sq * sq
            s2 = np.where(det > 0, (n * sqx - sq * sx) / np.where(det > 0, det, 1), s); m2 = (s2 * sq - sx) / n
            bad = (m2 < 0) | (s2 <= 0)
            s2 = np.where(bad, np.where(sqq > 0, np.maximum(sqx, 0) / np.maximum(sqq, 1e-12), s), s2); m2 = np.where(bad, 0, m2)
            s, m = s2, m2
        q = np.rint((x + m[:, None]) / np.maximum(s, 1e-12)[:, None]).clip(0, levels)
        e = ((s[:, None] * q - m[:, None] - x) ** 2).sum(1)
        ok = e < best; best = np.where(ok, e, best); S = np.where(ok, s, S); Mn = np.where(ok, m, Mn)
    return S, Mn
def q4_k(x):
    b = x.reshape(-1, 8, 32).astype(np.float64); n = len(b)
    s, m = _fit(b.reshape(-1, 32), 15); s, m = s.reshape(n, 8), m.reshape(n, 8)
    d = (s.max(1) / 63).astype(np.float16); dm = (m.max(1) / 63).astype(np.float16)
    df, dmf = d.astype(np.float64)[:, None], dm.astype(np.float64)[:, None]
    qs = np.rint(np.divide(s, df, out=np.zeros_like(s), where=df > 0)).clip(0, 63).astype(np.uint8); qm = np.rint(np.divide(m, dmf, out=np.zeros_like(m), where=dmf > 0)).clip(0, 63).astype(np.uint8)
    S, Mn = (df * qs)[:, :, None], (dmf * qm)[:, :, None]
    q = np.rint(np.divide(b + Mn, S, out=np.zeros_like(b), where=S > 0)).clip(0, 15).astype(np.uint8)
    sc = np.concatenate([qs[:, :4] | (qs[:, 4:] >> 4 << 6), qm[:, :4] | (qm[:, 4:] >> 4 << 6), (qs[:, 4:] & 15) | (qm[:, 4:] & 15) << 4], 1).astype(np.uint8)
    p = q.reshape(n, 4, 2, 32); qb = (p[:, :, 0] | p[:, :, 1] << 4).reshape(n, 128)
    return np.concatenate([d[:, None].view(np.uint8), dm[:, None].view(np.uint8), sc, qb], 1)
def q2_k(x):
    b = x.reshape(-1, 16, 16).astype(np.float64); n = len(b)
    s, m = _fit(b.reshape(-1, 16), 3, 20); s, m = s.reshape(n, 16), m.reshape(n, 16)
    d = (s.max(1) / 15).astype(np.float16); dm = (m.max(1) / 15).astype(np.float16)
    df, dmf = d.astype(np.float64)[:, None], dm.astype(np.float64)[:, None]
    qs = np.rint(np.divide(s, df, out=np.zeros_like(s), where=df > 0)).clip(0, 15).astype(np.uint8); qm = np.rint(np.divide(m, dmf, out=np.zeros_like(m), where=dmf > 0)).clip(0, 15).astype(np.uint8)
    S, Mn = (df * qs)[:, :, None], (dmf * qm)[:, :, None]
    q = np.rint(np.divide(b + Mn, S, out=np.zeros_like(b), where=S > 0)).clip(0, 3).astype(np.uint8).reshape(n, 2, 4, 32)
    qb = (q[:, :, 0] | q[:, :, 1] << 2 | q[:, :, 2] << 4 | q[:, :, 3] << 6).reshape(n, 64)
    return np.concatenate([(qs | qm << 4), qb, d[:, None].view(np.uint8), dm[:, None].view(np.uint8)], 1)
def iq2_tables():
    grid = np.loadtxt(os.path.join(HERE, "../reference/iq2xxs_grid.txt"), dtype=np.float32); code = np.arange(128)
    par = np.array([bin(v).count("1") & 1 for v in code]); bits = ((code | par << 7)[:, None] >> np.arange(8)) & 1
    return grid, (1 - 2 * bits).astype(np.float32)
def iq2_pack(d, sc, idx, sign):
    """d [n] f16, sc [n,8] 0..15, idx [n,8,4] grid, sign [n,8,4] 7-bit -> bytes [n,66]"""
    aux = sc.astype(np.uint32) << 28
    for j in range(4): aux |= sign[:, :, j].astype(np.uint32) << (7 * j)
    g = np.concatenate([idx.astype(np.uint8), aux[:, :, None].astype("<u4").view(np.uint8)], 2).reshape(len(d), 64)
    return np.concatenate([d.astype(np.float16)[:, None].view(np.uint8), g], 1)
def iq2_xxs(x, chunk=2048):
    """Plain search: per group of 32 try 16 scales; value = d*(0.5+s)/4 * grid * sign."""
    grid, _ = iq2_tables(); g2 = (grid * grid).sum(1); b = x.reshape(-1, 8, 4, 8).astype(np.float32); out = []
    pw = (1 << np.arange(8)).astype(np.int64)
    for c0 in range(0, len(b), chunk):
        v = b[c0:c0 + chunk]; n = len(v); a = np.abs(v); neg = v < 0
        odd = neg.sum(-1) & 1; wk = a.argmin(-1)                       # sign parity must be even: flip the weakest
        flip = np.zeros_like(neg); np.put_along_axis(flip, wk[..., None], odd[..., None].astype(bool), -1)
        sgn = neg ^ flip; t = np.where(flip, -a, a)                    # target magnitudes (flipped one is negative)
        code = (sgn * pw).sum(-1) & 127
        amax = a.max((-1, -2)); dot = t @ grid.T                       # [n,8,4,256]
        best = np.full((n, 8), np.inf); S = np.zeros((n, 8))
        for k in range(14):
            s = np.maximum(amax / 43 * (0.55 + 0.07 * k), 1e-12)
            for _ in range(2):
                cost = s[..., None, None] ** 2 * g2 - 2 * s[..., None, None] * dot; i = cost.argmin(-1)
                gi = grid[i]; s = np.maximum((gi * t).sum((-1, -2)) / (gi * gi).sum((-1, -2)), 1e-12)
            e = ((s[..., None, None] * gi - t) ** 2).sum((-1, -2)); ok = e < best; best = np.where(ok, e, best); S = np.where(ok, s, S)
        d = (S.max(1) / (15.5 * 0.25)).astype(np.float16); df = d.astype(np.float32)[:, None]
        q = np.rint(np.divide(S, df * 0.25, out=np.zeros_like(S), where=df > 0) - 0.5).clip(0, 15)
        s = df * 0.25 * (0.5 + q); cost = s[..., None, None] ** 2 * g2 - 2 * s[..., None, None] * dot; i = cost.argmin(-1)
        out.append(iq2_pack(d, q.astype(np.uint8), i, code))
    return np.concatenate(out)
def encode(a, t):
    a = np.ascontiguousarray(a, np.float32)
    if t == F32: return a.astype("<f4").tobytes()
    if t == F16: return a.astype("<f2").tobytes()
    if t == BF16: return (bf16(a).view(np.uint32) >> 16).astype("<u2").tobytes()
    return {Q8_0: q8_0, Q4_K: q4_k, Q2_K: q2_k, IQ2_XXS: iq2_xxs}[t](a).tobytes()
# ------------------------------------------------------------------ GGUF
def string(s): b = s.encode(); return struct.pack("<Q", len(b)) + b
class Gguf:
    def __init__(s): s.kv, s.t = [], []
    def u32(s, k, v): s.kv.append(string(k) + struct.pack("<II", 4, v))
    def f32(s, k, v): s.kv.append(string(k) + struct.pack("<If", 6, v))
    def bool(s, k, v): s.kv.append(string(k) + struct.pack("<IB", 7, v))
    def str(s, k, v): s.kv.append(string(k) + struct.pack("<I", 8) + string(v))
    def arr(s, k, t, fmt, v): s.kv.append(string(k) + struct.pack("<IIQ", 9, t, len(v)) + struct.pack(f"<{len(v)}{fmt}", *v))
    def strs(s, k, v): s.kv.append(string(k) + struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v)))
    def add(s, name, a, t): s.t.append((name, a.shape[::-1], t, encode(a, t) if t != I32 else a.astype("<i4").tobytes()))
    def save(s, path):
        info, off = b"", 0
        for n, dims, t, raw in s.t:
            info += string(n) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", t, off); off += -(-len(raw) // 32) * 32
        with open(path, "wb") as f:
            f.write(b"GGUF" + struct.pack("<IQQ", 3, len(s.t), len(s.kv)) + b"".join(s.kv) + info); f.write(bytes(-f.tell() % 32))
            for _, _, _, raw in s.t: f.write(raw + bytes(-len(raw) % 32))
        return os.path.getsize(path)
TYPES = {                                            # gate/up, down, dense matrices (attention, shared, head), small matrices
    "f16": (F16, F16, F16, F16), "q8": (Q8_0, Q8_0, Q8_0, F16), "q4": (Q4_K, Q4_K, Q8_0, F16), "q2": (IQ2_XXS, Q2_K, Q8_0, F16)}
def put_block(g, w, d, p, c, ratio, hashed, ty):
    gu, dn, big, small = ty
    A = lambda n, src, t: g.add(p + n, w[d + src], t)
    for k in ("hc_attn", "hc_ffn"):
        A(k + "_fn.weight", k + "_fn", small); A(k + "_scale.weight", k + "_scale", F32); A(k + "_base.weight", k + "_base", F32)
    A("attn_norm.weight", "attn_norm.weight", F32); A("attn_q_a.weight", "attn.wq_a.weight", big); A("attn_q_a_norm.weight", "attn.q_norm.weight", F32)
    A("attn_q_b.weight", "attn.wq_b.weight", big); A("attn_kv.weight", "attn.wkv.weight", big); A("attn_kv_a_norm.weight", "attn.kv_norm.weight", F32)
    A("attn_sinks.weight", "attn.attn_sink", F32); A("attn_output_a.weight", "attn.wo_a.weight", big); A("attn_output_b.weight", "attn.wo_b.weight", big)
    if ratio:
        for a, b in (("attn_compressor_", "attn.compressor."),) + ((("indexer_compressor_", "attn.indexer.compressor."),) if ratio == 4 else ()):
            A(a + "ape.weight", b + "ape", small); A(a + "kv.weight", b + "wkv.weight", small); A(a + "gate.weight", b + "wgate.weight", small); A(a + "norm.weight", b + "norm.weight", F32)
    if ratio == 4: A("indexer.attn_q_b.weight", "attn.indexer.wq_b.weight", small); A("indexer.proj.weight", "attn.indexer.weights_proj.weight", small)
    A("ffn_norm.weight", "ffn_norm.weight", F32); A("ffn_gate_inp.weight", "ffn.gate.weight", small)
    if hashed: g.add(p + "ffn_gate_tid2eid.weight", w[d + "ffn.gate.tid2eid"], I32)
    else: A("exp_probs_b.bias", "ffn.gate.bias", F32)
    st = lambda n: np.stack([w[d + f"ffn.experts.{e}.{n}.weight"] for e in range(c.experts)])
    g.add(p + "ffn_gate_exps.weight", st("w1"), gu); g.add(p + "ffn_up_exps.weight", st("w3"), gu); g.add(p + "ffn_down_exps.weight", st("w2"), dn)
    A("ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight", big); A("ffn_up_shexp.weight", "ffn.shared_experts.w3.weight", big); A("ffn_down_shexp.weight", "ffn.shared_experts.w2.weight", big)
def metadata(g, c, tok, name):
    k = "deepseek4."; u = lambda n, v: g.u32(k + n, v)
    g.str("general.architecture", "deepseek4"); g.str("general.type", "model"); g.str("general.name", name); g.u32("general.alignment", 32); g.u32("general.quantization_version", 2)
    g.str("general.license", "see DATA.md; weights trained for the ds4 re-implementation project")
    u("block_count", c.layers); u("context_length", 65536); u("embedding_length", c.dim); u("vocab_size", c.vocab)
    u("attention.head_count", c.heads); u("attention.head_count_kv", 1); u("attention.key_length", c.hd); u("attention.value_length", c.hd); g.f32(k + "attention.layer_norm_rms_epsilon", c.eps)
    u("attention.q_lora_rank", c.q_lora); u("attention.output_lora_rank", c.o_lora); u("attention.output_group_count", c.groups); u("attention.sliding_window", c.window)
    u("attention.indexer.head_count", c.ih); u("attention.indexer.key_length", c.ihd); u("attention.indexer.top_k", c.topk)
    g.f32(k + "attention.compress_rope_freq_base", c.theta_c); g.arr(k + "attention.compress_ratios", 5, "i", list(c.ratios) + [0])
    u("rope.dimension_count", c.rd); g.f32(k + "rope.freq_base", c.theta); g.str(k + "rope.scaling.type", "yarn"); g.f32(k + "rope.scaling.factor", c.factor); u("rope.scaling.original_context_length", c.orig)
    g.f32(k + "rope.scaling.yarn_beta_fast", c.beta_fast); g.f32(k + "rope.scaling.yarn_beta_slow", c.beta_slow)
    u("expert_count", c.experts); u("expert_used_count", c.active); u("expert_shared_count", 1); u("expert_gating_func", 4); u("expert_feed_forward_length", c.ff); g.f32(k + "expert_weights_scale", c.route_scale); g.bool(k + "expert_weights_norm", 1)
    u("leading_dense_block_count", 0); u("hash_layer_count", c.n_hash); g.arr(k + "swiglu_clamp_exp", 6, "f", [c.limit] * c.layers); u("nextn_predict_layers", 1)
    u("hyper_connection.count", c.hc); u("hyper_connection.sinkhorn_iterations", c.iters); g.f32(k + "hyper_connection.epsilon", 1e-6)
    if tok:
        sp = {a["id"]: a["content"] for a in tok["added_tokens"]}; inv = {i: t for t, i in tok["model"]["vocab"].items()}; inv.update(sp)
        g.str("tokenizer.ggml.model", "gpt2"); g.str("tokenizer.ggml.pre", "joyai-llm"); g.strs("tokenizer.ggml.tokens", [inv[i] for i in range(c.vocab)])
        special = {a["id"]: a["special"] for a in tok["added_tokens"]}
        g.arr("tokenizer.ggml.token_type", 5, "i", [1 if i not in special else 3 if special[i] else 4 for i in range(c.vocab)]); g.strs("tokenizer.ggml.merges", tok["model"]["merges"])
    for n, v in (("bos", 0), ("eos", 1), ("padding", 2)): g.u32(f"tokenizer.ggml.{n}_token_id", v)
    g.bool("tokenizer.ggml.add_bos_token", 0); g.bool("tokenizer.ggml.add_eos_token", 0)
def main_file(path, w, c, tok, kind, name="ds4-nano"):
    g, ty = Gguf(), TYPES[kind]; metadata(g, c, tok, name)
    g.add("token_embd.weight", w["embed.weight"], F16)
    for i, r in enumerate(c.ratios): put_block(g, w, f"layers.{i}.", f"blk.{i}.", c, r, i < c.n_hash, ty)
    g.add("output_hc_fn.weight", w["hc_head_fn"], F16); g.add("output_hc_scale.weight", w["hc_head_scale"], F32); g.add("output_hc_base.weight", w["hc_head_base"], F32)
    g.add("output_norm.weight", w["norm.weight"], F32); g.add("output.weight", w["head.weight"], ty[2])
    return g.save(path)
def mtp_file(path, w, c, kind):
    g, ty, d = Gguf(), TYPES[kind], "mtp.0."; g.str("general.architecture", "deepseek4_mtp_support"); g.str("general.name", "ds4-nano MTP block")
    for n in ("e_proj", "h_proj"): g.add(d + n + ".weight", w[d + n + ".weight"], ty[2])
    for n in ("enorm", "hnorm", "norm"): g.add(d + n + ".weight", w[d + n + ".weight"], F32)
    put_block(g, w, d, d, c, 0, False, ty if kind != "q2" else TYPES["q4"])
    g.add(d + "hc_head_fn.weight", w[d + "hc_head_fn"], F32); g.add(d + "hc_head_scale.weight", w[d + "hc_head_scale"], F32); g.add(d + "hc_head_base.weight", w[d + "hc_head_base"], F32)
    return g.save(path)
if __name__ == "__main__":
    from types import SimpleNamespace
    src, out = sys.argv[1:3]; w = st_load(src); cfg = json.load(open(os.path.join(HERE, "nano_config.json")))
    c = SimpleNamespace(**cfg, layers=len(cfg["ratios"])); tok = json.load(open(os.path.join(HERE, "tokenizer.json")))
    for kind in sys.argv[3:] or ["f16", "q8", "q4"]:
        print(kind, main_file(f"{out}/ds4-nano-{kind}.gguf", w, c, tok, kind) / 1e6, "MB; MTP", mtp_file(f"{out}/ds4-nano-{kind}-mtp.gguf", w, c, kind) / 1e6, "MB", flush=True)
