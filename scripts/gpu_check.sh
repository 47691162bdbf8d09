#!/usr/bin/env bash
# Check on a GPU what no CPU can show, in parts of at most 8 minutes each:
#   bash scripts/gpu_check.sh [--only PART] [--rehearse] [--out FOLDER]
# Installs nothing. Uses .venv if there is one, else the python on the PATH; PYTHON=… chooses another.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=$(command -v python3 || command -v python || true)
fi
[ -n "$PYTHON" ] || { echo "error: there is no python3 on the PATH; set PYTHON=…" >&2; exit 1; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $PYTHON is $("$PYTHON" --version 2>&1); p-diff needs Python 3.11 or newer" >&2
    exit 1
}
exec "$PYTHON" -m scripts.gpu_check "$@"
