#!/usr/bin/env python3
"""Print a GGUF's metadata and check its tensor directory. usage: gguf_dump.py FILE"""
import struct, sys
f = open(sys.argv[1], "rb")
def r(fmt):
    v = struct.unpack("<" + fmt, f.read(struct.calcsize("<" + fmt)))
    return v[0] if len(v) == 1 else v
def s(): return f.read(r("Q")).decode("utf-8", "replace")
SC = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
def val(t):
    if t == 8: return s()
    if t == 9:
        et, n = r("IQ")
        v = [val(et) for _ in range(n)] if et in (8, 9) else list(struct.unpack("<%d%s" % (n, SC[et]), f.read(n * struct.calcsize(SC[et]))))
        return "[%d] %s%s" % (n, v[:6], "..." if n > 6 else "")
    return r(SC[t])
assert f.read(4) == b"GGUF"
ver, nt, nk = r("IQQ")
print("version", ver, "tensors", nt, "kv", nk)
for _ in range(nk):
    k = s(); t = r("I"); print(" %-55s %s" % (k, val(t)))
G = {0: (1, 4), 1: (1, 2), 8: (32, 34), 10: (256, 84), 12: (256, 144), 16: (256, 66), 26: (1, 4), 30: (1, 2)}
ts = []
for _ in range(nt):
    n = s(); nd = r("I"); d = [r("Q") for _ in range(nd)]; t = r("I"); o = r("Q"); ts.append((n, d, t, o))
base = (f.tell() + 31) // 32 * 32
f.seek(0, 2); size = f.tell()
end = 0
for n, d, t, o in ts:
    e = 1
    for x in d: e *= x
    end = max(end, base + o + e // G[t][0] * G[t][1]); assert o % 32 == 0
print("data at", base, "ends", end, "file", size, "distinct offsets", len({o for *_, o in ts}))
