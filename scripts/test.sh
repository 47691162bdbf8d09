#!/usr/bin/env bash
# Every check of the sources, then the whole test suite: bash scripts/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
"$PYTHON" -m mypy
"$PYTHON" -m codespell_lib
# One worker per core and one thread per worker, since the threads of several workers would wait for each other.
# The files keep the order that tests/conftest.py gives them.
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
