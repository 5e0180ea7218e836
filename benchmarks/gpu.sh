#!/usr/bin/env bash
# What one accelerator gives, in one command and under ten minutes: the training step against the ceiling, several seeds
# at once, each kernel against its reference in value and time, a short search in its own size (`gpu_space.py`). Writes
# JSON into a folder, also of what was measured before a limit of time or memory ended it.
#
#   benchmarks/gpu.sh [FOLDER]        PYTHON=.venv/bin/python TRIALS=10 may be set; install '.[cuda13]' or '.[tpu]' first
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=${1:-gpu-results}
trials=${TRIALS:-10}
failed=0
mkdir -p "$folder"

run() {  # seconds, name, command
  local limit=$1 name=$2
  shift 2
  local began=$SECONDS
  if timeout "$limit" "$@" >"$folder/$name.txt" 2>"$folder/$name.log"; then
    echo "$name: $((SECONDS - began)) s"
  else
    echo "$name: FAILED with status $? after $((SECONDS - began)) s; see $folder/$name.log"
    failed=1
  fi
}

run 40 device "$python" -c 'import jax; print(jax.devices(), jax.__version__)'
run 100 accelerator "$python" -m benchmarks.accelerator --json "$folder/accelerator.json"
run 100 kernels "$python" -m benchmarks.kernels --repeats 5 --seconds 0.05 --json "$folder/kernels.json"
# Candidates are admitted on the cores, one each. After .055 hours nothing is begun any more: what runs then, six tasks
# at most, has the other 140 s, and the table has what there is.
run 340 search "$python" -m nas.search --space benchmarks/gpu_space.py --budget "$trials" --seed 0 --proposer evolution \
  --workers "$(nproc)" --lookahead 6 --max-hours 0.055 --confirm 0 --results "$folder/runs" --name gpu
if [ -d "$folder/runs/gpu" ]; then
  run 20 board "$python" -m nas.leaderboard "$folder/runs/gpu" --format json
  [ -s "$folder/board.txt" ] && mv "$folder/board.txt" "$folder/board.json"
fi
exit $failed
