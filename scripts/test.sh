#!/usr/bin/env bash
# The whole test suite: bash scripts/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
# one worker per core and one thread per worker: several threads per worker would wait for each other; files as tests/conftest.py orders them
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest tests --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
