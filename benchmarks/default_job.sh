#!/usr/bin/env bash
# The default job on a full-size gpt-oss-20b with random weights, end to end, on one NVIDIA GPU without a network:
# makes the checkpoint, runs train.py with config.yaml, lists every file that the run left outside its folders,
# reloads final_model in a new process and generates from it. Prints the figures last.
#
#     bash benchmarks/default_job.sh TOKENIZER_DIR ROWS.jsonl WORK_DIR ATTENTION [--set KEY=VALUE ...]
#
# TOKENIZER_DIR  folder with the gpt-oss tokenizer      ROWS.jsonl  rows in Multilingual-Thinking's schema
# WORK_DIR       for checkpoint, output and caches      ATTENTION   4bit or 16bit
set -euo pipefail
tokenizer=$(realpath "$1") rows=$(realpath "$2") work=$3 attention=$4
shift 4
code=$(dirname "$(dirname "$(readlink -f "$0")")")
model=$work/gpt-oss-20b-$attention output=$work/outputs-$attention
export GPTOSS_FT_CACHE=$work/cache GPTOSS_FT_OUTPUT_ROOT=$output HOME=$work/home HF_HUB_OFFLINE=1
mkdir -p "$work/started-from" "$HOME" "$output"

stage() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    printf '== %s\n' "$name"
    timeout "$limit" "$@" || code=$?
    printf '== %s: exit %d after %d s\n' "$name" "$code" $((SECONDS - start))
    return "$code"
}

stage checkpoint 180 python3 "$code/benchmarks/synthetic_checkpoint.py" --output "$model" \
    --tokenizer "$tokenizer" --attention "$attention"
cd "$work/started-from"
marker=$work/marker
touch "$marker"
sleep 1 # file times are compared with the marker's
stage train 400 python3 "$code/train.py" --config "$code/config.yaml" \
    --set model.name="$model" --set dataset.path="$rows" "$@"
strays=$(find "$work/started-from" "$HOME" "$code" /tmp /var/tmp -xdev -type f -newer "$marker" \
    -not -path "$output/*" -not -path "$GPTOSS_FT_CACHE/*" 2>/dev/null || true)
printf '== files outside the output and cache folders: %s\n' "${strays:-none}"
job=$(find "$output" -name memory_report.json -printf '%h\n')
(cd "$job" && find . -maxdepth 2 -printf '%M %10s %p\n' | sort -k3)
stage reload 200 python3 "$code/benchmarks/check_final_model.py" "$job/final_model"
printf '== losses: '
python3 -c "import json; print(*(round(json.loads(line)['loss'], 3) for line in open('$job/log.jsonl')))"
cat "$job/memory_report.json"
[[ -z $strays ]] # the last line's status: a run leaves nothing behind
