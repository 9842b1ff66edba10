#!/usr/bin/env python3
"""make_request_corpus.py - seeds for the request fuzz targets: the recorded requests of tests/data/clients, made small.

Long texts are cut and only the first tools of each type are kept, so that the fuzzer works on structure.  Run from the
root of the repository; writes tests/fuzz/corpus/request_NAME.
"""
import glob, json, os

NAMES = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/responses": "responses",
         "/v1/messages": "messages", "/v1/messages/count_tokens": "messages"}
EXTRA = {
    "chat": ['{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]},'
             '{"role":"assistant","content":"b"}],"stop":["x"],"tools":[{"type":"custom","custom":{"name":"c"}}],'
             '"tool_choice":{"type":"custom","custom":{"name":"c"}},"chat_template_kwargs":{"thinking":false},"n":1}'],
    "completions": ['{"prompt":[0,5],"echo":true,"logprobs":2,"suffix":"s","parse_special":false,"best_of":1}'],
    "responses": ['{"input":[{"type":"custom_tool_call","call_id":"c","name":"p","input":"x"},'
                  '{"type":"custom_tool_call_output","call_id":"c","output":"y"},{"type":"compaction"}],'
                  '"tools":[{"type":"custom","name":"p"},{"type":"tool_search","parameters":{}}],"instructions":"i"}'],
    "messages": ['{"system":[{"type":"text","text":"x-anthropic-a"}],"messages":[{"role":"user","content":"u"},'
                 '{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"f","input":{}}]},{"role":"user",'
                 '"content":[{"type":"tool_result","tool_use_id":"i","content":"r"},{"type":"image"}]}],'
                 '"stop_sequences":["s"],"output_config":{"format":{"type":"json_schema","schema":{}}}}'],
}


def small(v, key=""):
    if isinstance(v, str):
        return v[:40]
    if isinstance(v, list):
        if key == "tools":
            seen = {}
            for t in v:
                seen.setdefault(t.get("type"), t)
            v = list(seen.values())
        return [small(x) for x in v[:8]]
    if isinstance(v, dict):
        if key in ("parameters", "input_schema"):
            return {"type": "object"}
        return {k: small(x, k) for k, x in list(v.items())[:24]}
    return v


for path in sorted(glob.glob("tests/data/clients/*/*-POST-*.json")):
    with open(path) as f:
        record = json.load(f)
    name = NAMES[record["url"].split("?")[0]]
    folder = "tests/fuzz/corpus/request_" + name
    os.makedirs(folder, exist_ok=True)
    seed = path.split("/")[-2] + "-" + os.path.basename(path)[:2]
    with open(os.path.join(folder, seed), "w") as f:
        json.dump(small(record["body"]), f, separators=(",", ":"))
for name, bodies in EXTRA.items():
    for i, body in enumerate(bodies):
        with open("tests/fuzz/corpus/request_%s/extra-%d" % (name, i), "w") as f:
            f.write(body)
