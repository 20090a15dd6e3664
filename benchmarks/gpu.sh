#!/usr/bin/env bash
# What only a GPU can tell, in at most 12 minutes, 18 with ROOT, and in order of worth, without a
# network connection.
#   [ROOT=DATASETS] benchmarks/gpu.sh [WHEELS]
# WHEELS is a folder with wheels of all that the machine's Python lacks, ROOT one of categories laid
# out like MVTec AD. Each part has a limit of its own in seconds, and writes JSON to results/ as it
# goes: one that fails or takes too long does not cost the others. LIMIT=0.1 tries it on a CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} limit=${LIMIT:-1} failed=0

if [ $# -gt 0 ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$1"/*.whl || exit
fi
export PYTHONPATH="$PWD:$PWD/benchmarks${site:+:$site}"

part() { # limit, then what Python runs
    local seconds
    seconds=$("$python" -c "print($1 * $limit)")
    shift
    echo "== $*"
    timeout "$seconds" "$python" -W ignore "$@" || {
        echo "== failed or out of time: $*"
        failed=1
    }
}

part 60 -c "import side_by_side as s; print(s.where())"
part 60 -m pytest tests/test_on_a_gpu.py
part 150 benchmarks/synthesis.py
part 150 benchmarks/training.py --batch 32 --precision bf16-mixed \
    --models Draem default "without a memory" "the paper's network, all losses"
part 300 benchmarks/training.py --batch 32 --precision bf16-mixed \
    --models default "default, compiled"
if [ -n "${ROOT:-}" ]; then
    accuracy() { # name, batch, configuration, then what to change
        local name=$1 batch=$2 config=$3
        shift 3
        for category in bottle magnetic_tile; do
            part 90 benchmarks/accuracy.py --root "$ROOT" --categories "$category" \
                --name "$name" --batch "$batch" --config "$config" \
                --set trainer.precision=bf16-mixed trainer.accelerator=auto "$@"
        done
    }
    accuracy gpu 8 configs/cpu.yaml
    accuracy gpu-paper 32 configs/paper.yaml trainer.max_time=00:00:01:00
fi
exit "$failed"
