#!/usr/bin/env bash
# Run the linters and the type checker, then the whole test suite: bash scripts/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$PYTHON" -m ruff check
"$PYTHON" -m ruff format --check
"$PYTHON" -m mypy
"$PYTHON" -m codespell_lib
# Each core gets one worker with one thread, since threads of several workers would wait for each other.
# The options keep the order of the files that tests/conftest.py sets, so that the longest files start first.
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
