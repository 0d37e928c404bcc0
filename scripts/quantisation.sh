#!/bin/sh
# The runs behind docs/quantisation.md. Give it what it needs in the environment:
#   DATA    folder with hh-rlhf/
#   JUDGE   folder of an independent reward model with the axis `preferred`
#   HELPFUL folder of an independent reward model with the axis `helpful`
#   SOURCE  the GGUF file that all types are made of, FILES: folder for them;  OUT: folder of the runs
# Stopped, it goes on with the same command. Names of runs may follow; default: both.
set -eu
cd "$(dirname "$0")/.."
STARS="${STARS:-stars-local}"
: "${DATA:?}" "${JUDGE:?}" "${HELPFUL:?}" "${SOURCE:?}" "${FILES:?}" "${OUT:?}" "${LIMIT:=150}" "${COHORT:=75}"
TYPES="Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,IQ4_NL,Q3_K_M,Q2_K"

"$STARS" quants make "$SOURCE" --types F16 --out "$FILES"
reference=$(ls "$FILES"/*.F16.gguf)

compare() { # NAME PROMPTS OPTIONS...
    name=$1 prompts=$2
    shift 2
    "$STARS" quants compare "$reference" --types "$TYPES" --types-out "$FILES" --out "$OUT/$name" \
        --prompts "$prompts" --limit "$LIMIT" --cohort "$COHORT" --seed 0 "$@"
}

for run in ${*:-harmless helpful}; do
    case $run in
    harmless)
        compare "$run" "$DATA/hh-rlhf/harmless-base/test.jsonl.gz" --judge "reward:$JUDGE" \
            --max-new-tokens 128 ;;
    helpful) # half as long, in as many segments: half the time
        compare "$run" "$DATA/hh-rlhf/helpful-base/test.jsonl.gz" --judge "reward:$HELPFUL" \
            --judge "reward:$JUDGE" --reward helpful=1 --max-new-tokens 64 --segment-size 16 ;;
    *) echo "unknown run $run" >&2 && exit 2 ;;
    esac
done
