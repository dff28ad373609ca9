#!/usr/bin/env bash
# Everything that comes after training, on a gpt-oss-20b of fewer layers with random weights, on one NVIDIA GPU without
# a network: train, evaluate, generate, merge, export, each reloaded in a process that cannot import Unsloth; then the
# merged weights derived a second time, expert by expert. Prints the figures last.
#
#     bash benchmarks/after_training.sh TOKENIZER_DIR ROWS.jsonl WORK_DIR LAYERS [--set KEY=VALUE ...]
#
# TOKENIZER_DIR  folder with the gpt-oss tokenizer      ROWS.jsonl  rows in Multilingual-Thinking's schema
# WORK_DIR       for checkpoint, output and caches      LAYERS      4 is enough to compare; gpt-oss-20b has 24
#
# Environment: STAGES, which of train evaluate generate merge export check to run (default: all)
#              LOGS, a folder for what each stage says (default: WORK_DIR/logs)
set -uo pipefail
mkdir -p "$3" "${LOGS:-$3/logs}" || exit
tokenizer=$(realpath "$1") rows=$(realpath "$2") work=$(realpath "$3") logs=$(realpath "${LOGS:-$3/logs}") layers=$4
shift 4
code=$(dirname "$(dirname "$(readlink -f "$0")")")
model=$work/gpt-oss-$layers
export GPTOSS_FT_CACHE=$work/cache GPTOSS_FT_OUTPUT_ROOT=$work/outputs HF_HUB_OFFLINE=1
mkdir -p "$work/outputs"
cd "$work" || exit
job=(--config "$code/config.yaml" --set "model.name=$model" --set "dataset.path=$rows" --set dataset.eval_fraction=0.2
    --set training.max_steps=6 --set training.save_steps=6 --set training.output_dir=chain
    --set 'evaluation.prompts=[Was ist ein Enzym?]' --set evaluation.max_new_tokens=32 "$@")
failed=0

stage() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS code=0
    shift 2
    [[ " ${STAGES:-train evaluate generate merge export check} " == *" ${name%%-*} "* ]] || return 0
    timeout "$limit" "$@" >"$logs/$name.log" 2>&1 || code=$?
    printf '== %s: exit %d after %d s\n' "$name" "$code" $((SECONDS - start))
    if ((code != 0)); then failed=1; tail -n 25 "$logs/$name.log"; fi
}


if [[ ! -e $model/config.json ]]; then
    timeout 180 python3 "$code/benchmarks/synthetic_checkpoint.py" --output "$model" --tokenizer "$tokenizer" \
        --layers "$layers" >"$logs/checkpoint.log" 2>&1 || { tail -n 5 "$logs/checkpoint.log"; exit 1; }
fi
stage train 300 python3 "$code/train.py" train "${job[@]}"
stage evaluate 200 python3 "$code/train.py" evaluate "${job[@]}" --output "$work/evaluation.json"
stage generate 200 python3 "$code/train.py" generate "${job[@]}" --prompt 'Was ist ein Enzym?' --max-new-tokens 32
stage merge 500 python3 "$code/train.py" merge "${job[@]}"
stage export 500 python3 "$code/train.py" export "${job[@]}" --format portable-adapter
stage check 200 python3 "$code/benchmarks/check_merged.py" --base "$model" \
    --adapter "$work/outputs/chain/final_model" --merged "$work/outputs/chain/merged_model" \
    --layers 0 $((layers / 2)) $((layers - 1))
for name in evaluate generate merge export check; do
    printf -- '-- %s\n' "$name"
    [[ ! -e $logs/$name.log ]] || tail -n 30 "$logs/$name.log"
done
exit "$failed"
