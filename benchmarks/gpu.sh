#!/usr/bin/env bash
# What one accelerator gives, in one command and under ten minutes: a search in its own size, the training step against
# the ceiling, several seeds at once, each kernel against its reference. Writes JSON beside each other into a folder.
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

run 60 device "$python" -c 'import jax; print(jax.devices(), jax.__version__)'
run 150 accelerator "$python" -m benchmarks.accelerator --json "$folder/accelerator.json"
run 150 kernels "$python" -m benchmarks.kernels --json "$folder/kernels.json"
run 220 search "$python" -m nas.search --space byte_lm --size gpu --budget "$trials" --seed 0 --proposer evolution \
  --confirm 0 --results "$folder/runs" --name gpu
if [ -d "$folder/runs/gpu" ]; then
  run 20 board "$python" -m nas.leaderboard "$folder/runs/gpu" --format json
  [ -s "$folder/board.txt" ] && mv "$folder/board.txt" "$folder/board.json"
fi
exit $failed
