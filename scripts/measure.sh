#!/usr/bin/env bash
# Measure again every figure of the README and of data/baselines (about an hour; leave the machine alone meanwhile).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=1
RESIDUA=.venv/bin/residua
$RESIDUA bench engine --quick --threads 1 --out data/baselines/engine.json
$RESIDUA bench accuracy --ladder library --seeds 0 --out data/baselines/library.json
$RESIDUA bench accuracy --seeds 0 --only poisson helmholtz wave burgers_2d advection_50 --out data/baselines/accuracy.json
