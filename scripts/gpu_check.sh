#!/usr/bin/env bash
# Run the tests, both commands, timings and profiles on a GPU, in parts of at most 8 minutes each:
#   bash scripts/gpu_check.sh [--only PART] [--rehearse] [--out FOLDER]
# Installs nothing. Uses .venv if it exists, otherwise the python on the PATH. Set PYTHON=… to use another one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=$(command -v python3 || command -v python || true)
fi
[ -n "$PYTHON" ] || { echo "error: python3 was not found on the PATH. Set PYTHON=…" >&2; exit 1; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1); p-diff needs Python 3.11 or newer. Set PYTHON=…" >&2
    exit 1
}
exec "$PYTHON" -m scripts.gpu_check "$@"
