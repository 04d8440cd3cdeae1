#!/usr/bin/env bash
# The prepared run on a machine with CUDA and without a network, where python3 has torch (constraints-gpu.txt says which):
#   make gpu-wheels                      where there is a network: what torch's own environment lacks, as wheels
#   benchmarks/gpu.sh --output DIR       there: contract of all entries and speed list, packed in DIR/evidence.tar.gz
set -euo pipefail
cd "$(dirname "$0")/.."
site=$(mktemp -d)
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .wheels-gpu/*.whl
PYTHONPATH="$site:$PWD" PYTHONUNBUFFERED=1 python3 benchmarks/gpu.py "$@"
