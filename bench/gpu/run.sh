#!/bin/sh
# Runs the checks and benchmarks of a GPU: ./run.sh [--out DIR] [--device cpu --quick]
# PYTHON names the interpreter that has PyTorch.
set -eu
kit=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" "$kit/unpack.py" "$kit" "$place"
export PYTHONPATH="$place:$kit/source${PYTHONPATH:+:$PYTHONPATH}"
export SURGEON_MIRROR_DIR="$kit/mirror" PYTHONDONTWRITEBYTECODE=1
status=0
"$python" -m bench.gpu "$@" || status=$?
exit $status
