#!/bin/sh
# Every figure of a GPU, in under eight minutes, the most telling first; each is written as it comes.
#
#     benchmarks/gpu.sh FOLDER                 # with the python of the environment
#     PYTHON=.venv/bin/python benchmarks/gpu.sh FOLDER
#
# FOLDER gets a report of the head for each objective (8192 tokens, hidden size 4096, a vocabulary
# of 128 256, bfloat16: time and peak memory beside Liger, TRL, verl, CCE and torch, the share of
# the three matrix products, the errors), the log of the GPU tests, and a training step with vLLM.
# A part that fails or takes too long ends alone; the exit status is the number of such parts.
set -u
cd "$(dirname "$0")/.."
folder=${1:?usage: benchmarks/gpu.sh FOLDER}
PYTHON=${PYTHON:-python}
mkdir -p "$folder"
failed=0

# part NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.log
part() {
    name=$1 seconds=$2
    shift 2
    start=$(date +%s)
    if timeout "$seconds" "$@" >"$folder/$name.log" 2>&1; then result=done; else
        result="failed ($?)"
        failed=$((failed + 1))
    fi
    echo "$name: $result after $(($(date +%s) - start)) s" | tee -a "$folder/parts.txt"
}

head() {
    part "head-$1" 50 "$PYTHON" benchmarks/head.py --device cuda --objective "$2" --case dense \
        --shape 8192,4096,128256 --rounds 3 --minutes 0.3 --save "$folder/$1"
}

part machine 5 nvidia-smi
part versions 10 "$PYTHON" -m pip list
head dapo dapo
head gspo gspo
head grpo-k3 "grpo + k3"
part tests 90 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests
head entropy "dapo + entropy"
head clip-cov clip_cov
part training 100 "$PYTHON" benchmarks/training.py --rounds 1 --save "$folder"
exit "$failed"
