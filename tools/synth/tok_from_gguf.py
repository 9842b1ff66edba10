#!/usr/bin/env python3
"""Copy the tokenizer section of a GGUF into the blob that make_synth_gguf --tok reads.

    tok_from_gguf.py tests/data/text/tokenizer_only.gguf tok.bin

Blob: u64 n_tokens, u64 n_kv, then the key/value records of every tokenizer.* key, byte for byte.  Stdlib only."""
import struct, sys

SIZE = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def main():
    b = open(sys.argv[1], "rb").read()
    u64 = lambda at: struct.unpack_from("<Q", b, at)[0]
    u32 = lambda at: struct.unpack_from("<I", b, at)[0]

    def skip(at, t):
        """Position after a value of type t."""
        if t == 8: return at + 8 + u64(at)
        if t != 9: return at + SIZE[t]
        sub, n, at = u32(at), u64(at + 4), at + 12
        if sub in SIZE: return at + n * SIZE[sub]
        for _ in range(n): at = skip(at, sub)
        return at

    assert b[:4] == b"GGUF" and u32(4) == 3, "not a GGUF v3 file"
    at, records, n_tokens = 24, [], None
    for _ in range(u64(16)):
        n = u64(at)
        key, t, value = b[at + 8:at + 8 + n].decode(), u32(at + 8 + n), at + 12 + n
        end = skip(value, t)
        if key == "tokenizer.ggml.tokens": n_tokens = u64(value + 4)
        if key.startswith("tokenizer."): records.append(b[at:end])
        at = end
    assert n_tokens, "no tokenizer.ggml.tokens"
    with open(sys.argv[2], "wb") as f: f.write(struct.pack("<QQ", n_tokens, len(records)) + b"".join(records))
    print(f"{sys.argv[2]}: {n_tokens} tokens, {len(records)} keys")


main()
