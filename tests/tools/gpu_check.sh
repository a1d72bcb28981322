#!/usr/bin/env bash
# Checks this checkout on a GPU: the tests marked `gpu`, the house job, the Fashion-MNIST job and the benchmarks.
#
#     tests/tools/gpu_check.sh [--report FILE] [--accelerator gpu|cpu]
#
# It writes one report, gpu_report.md if no other file is named, and ends with status 1 if a part failed, or with 2
# where there is no GPU. It takes less than ten minutes on one GPU, beside the installation: parts have time limits.
# The Python is that of PYTHON, of .venv, or of the PATH; if it lacks what the tests need, .venv is made. With
# `--accelerator cpu`, short forms of all parts run on a CPU, to try the script.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

report=gpu_report.md accelerator=gpu
while [ $# -gt 0 ]; do
    case "$1 ${2-}" in
        "--report "?*) report=$2 ;;
        "--accelerator gpu" | "--accelerator cpu") accelerator=$2 ;;
        *) echo "gpu_check: $1 ${2-}: the options are --report FILE and --accelerator gpu or cpu" >&2; exit 2 ;;
    esac
    shift 2
done

no_gpu() {
    echo "gpu_check: there is no GPU here that PyTorch can use; --accelerator cpu tries the script on a CPU" >&2
    exit 2
}
if [ "$accelerator" = gpu ] && [ ! -e /dev/nvidia0 ] && [ ! -e /dev/dxg ] && ! command -v nvidia-smi > /dev/null; then
    no_gpu  # so no environment is needed
fi

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
if ! "$python" -c "import lightning, optuna, pytest, torch" 2> /dev/null; then
    echo "gpu_check: $python lacks what the tests need; making .venv" >&2
    python=.venv/bin/python
    { python3 -m venv .venv && "$python" -m pip install -q --require-hashes -r requirements-dev.lock &&
        "$python" -m pip install -q --no-deps --no-build-isolation -e .; } ||
        { echo "gpu_check: the environment could not be made" >&2; exit 2; }
fi
if [ "$accelerator" = gpu ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    no_gpu
fi

work=$(mktemp -d) failed=0
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
epochs="" bench=(--repeats 3 --epochs 10) folds=(--repeats 3 --epochs 30)  # a Trainer a fold takes a minute for 100
if [ "$accelerator" = cpu ]; then
    epochs="--max_epochs 1" bench=(--repeats 1 --epochs 1) folds=(--repeats 1 --epochs 2)
fi

# Where Fashion-MNIST is neither installed nor can be downloaded, images of the same size take its place.
images="Fashion-MNIST"
if ! timeout 40 "$python" -c "from d2l_lightning import FashionMNIST; FashionMNIST().prepare_data()" 2> /dev/null; then
    images="made-up images (Fashion-MNIST is not installed and could not be downloaded)"
    export D2L_LIGHTNING_CACHE=$work/cache
    "$python" - "$D2L_LIGHTNING_CACHE" << 'END'
import sys
from pathlib import Path

from tests.data.test_fashion_mnist import write

write(Path(sys.argv[1]), (60_000, 10_000), pack=False)
END
fi

# part NAME SECONDS COMMAND...: runs a part with a time limit and adds it to the table of the report.
part() {
    local name=$1 limit=$2 log="$work/$1.log" start status
    shift 2
    echo "gpu_check: $name" >&2
    start=$(date +%s)
    timeout --kill-after 10 "$limit" "$@" > "$log" 2>&1
    status=$?
    figures=$("$python" - "$name" "$work/$name" "$log" "$accelerator" 2>&1 << 'END'
import json, sys
from pathlib import Path

name, folder, log, accelerator = sys.argv[1:]
limit = {"benchmark_kaggle_house": 0.3, "benchmark_fashion_mnist": 1.0}.get(name)
if name == "tests":
    print(Path(log).read_text(errors="replace").strip().splitlines()[-1].strip("= "))
else:
    found = json.loads((Path(folder) / "results.json").read_text())
    results = found["results"]
    if limit is not None:
        ratio = results["ratios"]["bare_loop"]
        times = {key: [round(x, 3) for x in sorted(each)] for key, each in results["seconds"].items()}
        print(f"{ratio:.3f} of the bare loop, accepted {limit}; on {results['device']}; seconds: {times}")
        sys.exit(accelerator == "gpu" and ratio > limit)
    names = ("train_log_rmse", "val_log_rmse", "final_train_log_rmse")
    figures = {key: results[key] for key in names if key in results}
    figures |= {key: each["test_accuracy"] for key, each in results.get("models", {}).items()}
    print(f"{found['seconds']} s in the run; on {found['environment']['device_name']}; {figures}")
END
    ) || { [ $status -ne 0 ] || status=1; }
    [ $status -eq 0 ] || failed=1
    echo "| $name | $status | $(($(date +%s) - start)) | $(echo "$figures" | tail -n 1 | tr '|' '/') |" >> "$work/table"
}

part tests 220 "$python" -m pytest -m gpu -p no:cacheprovider tests
# shellcheck disable=SC2086  # epochs is two words or none
part kaggle_house 50 "$python" experiments/kaggle_house.py --accelerator "$accelerator" $epochs \
    --run_dir "$work/kaggle_house"
# shellcheck disable=SC2086
part mlp 50 "$python" experiments/mlp.py --accelerator "$accelerator" $epochs --run_dir "$work/mlp"
part benchmark_kaggle_house 120 "$python" experiments/benchmark.py kaggle_house --accelerator "$accelerator" \
    "${folds[@]}" --run_dir "$work/benchmark_kaggle_house"
part benchmark_fashion_mnist 120 "$python" experiments/benchmark.py fashion_mnist --accelerator "$accelerator" \
    "${bench[@]}" --run_dir "$work/benchmark_fashion_mnist"

{
    echo "# GPU check: $([ $failed = 0 ] && echo passed || echo FAILED)"
    echo
    echo "- date: $(date -u +%Y-%m-%dT%H:%MZ); commit: $(git describe --always --dirty 2> /dev/null || echo unknown)"
    [ "$accelerator" = gpu ] || echo "- short forms on a CPU, to try the script: no figure here means anything"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null | sed 's/^/- card: /'
    "$python" -c "import platform, torch, lightning
print(f'- torch {torch.__version__} (CUDA {torch.version.cuda}), lightning {lightning.__version__}', end=', ')
print(f'Python {platform.python_version()}, {platform.platform()}')
for i in range(torch.cuda.device_count()): print('- device', i, torch.cuda.get_device_name(i))"
    echo "- images: $images"
    echo
    echo "| part | exit status | seconds | figures |"
    echo "| --- | --- | --- | --- |"
    cat "$work/table"
    for log in "$work"/*.log; do
        printf '\n## %s\n\n```\n' "$(basename "$log" .log)"
        tail -n 40 "$log" | cut -c -300
        echo '```'
    done
} > "$report"
echo "gpu_check: $([ $failed = 0 ] && echo passed || echo failed); the report is in $report" >&2
exit $failed
