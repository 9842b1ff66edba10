#!/bin/sh
# Makes ds4-nano again: one H100 (or a GPU like it) for about 40 minutes, run in this folder.
#     ./run.sh check | train | quantise | export | all           OUT=out is where everything goes
# Needs python3 with torch (triton), transformers (with DeepSeek V4), tokenizers, numpy, regex; see README.md.
set -eu
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4
OUT=${OUT:-out}
mkdir -p "$OUT"

check() {	# the training code against transformers and the tokenizer against Hugging Face's, then a minute of training
	python3 hf_check.py
	python3 train.py --debug --steps 60 --out "$OUT/debug"
}
train() {	# 850 s gave 238 M tokens
	python3 train.py --seconds "${SECONDS_BF16:-850}" --out "$OUT/bf16"
	python3 post.py "$OUT/bf16/nano.pt" "$OUT/bf16"
}
quantise() {	# 36 M tokens more with the routed experts held in IQ2_XXS and Q2_K
	python3 train.py --qat --resume "$OUT/bf16/nano.pt" --seconds "${SECONDS_QAT:-300}" --lr 4e-4 --out "$OUT/q2"
	python3 post.py "$OUT/q2/nano.pt" "$OUT/q2" --qat
}
export_files() {
	python3 export_q2.py "$OUT/q2/rest.safetensors" "$OUT/q2/packed.npz" "$OUT/ds4-nano-q2.gguf"
	python3 export_q2.py "$OUT/q2/rest.safetensors" "$OUT/q2/packed.npz" "$OUT/ds4-nano-q2-exact.gguf" f16
	python3 export_q2.py --mtp "$OUT/q2/rest.safetensors" "$OUT/ds4-nano-mtp.gguf"
}

case ${1:-} in
check | train | quantise) $1 ;;
export) export_files ;;
all) check; train; quantise; export_files ;;
*) sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
