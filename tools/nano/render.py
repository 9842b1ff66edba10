"""encode_messages() by `ds4 render --jsonl`: the text that DeepSeek's encoding_dsv4.py makes of a conversation.
$DS4 names the program (default ../../ds4); any model with a vocabulary will do, the prompt does not depend on it."""
import atexit, json, os, subprocess
HERE = os.path.dirname(os.path.abspath(__file__))
_process = None

def encode_messages(messages, thinking_mode, **args):
    global _process
    if _process is None:
        ds4 = os.environ.get("DS4", os.path.join(HERE, "../../ds4"))
        _process = subprocess.Popen([ds4, "render", "--jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        atexit.register(_process.kill)
    args = {k: v for k, v in args.items() if v is not None}
    _process.stdin.write(json.dumps({"messages": messages, "args": {"thinking_mode": thinking_mode, **args}, "profile": "preview"}) + "\n")
    _process.stdin.flush()
    line = _process.stdout.readline()
    out = json.loads(line) if line else {"error": "it ended"}
    if "prompt" not in out: raise RuntimeError(f"ds4 render: {out.get('error', out)}")
    return out["prompt"]
