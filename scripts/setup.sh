#!/usr/bin/env bash
# Create .venv and install requirements.txt and requirements-extras.txt into it, unless that is done already.
# Other scripts source this file and then call the environment's python as $PYTHON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=.venv/bin/python
lists=(requirements.txt requirements-extras.txt)
stamp=.venv/requirements.installed
if ! cat "${lists[@]}" | cmp --silent - "$stamp"; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: python3 is $(python3 --version 2>&1); p-diff needs Python 3.11 or newer" >&2
        exit 1
    }
    echo "Installing ${lists[*]} into .venv (once, about 3 minutes and 6 GB)"
    [ -x "$PYTHON" ] || python3 -m venv .venv
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "${lists[@]/#/--requirement=}"
    cat "${lists[@]}" > "$stamp"
fi
