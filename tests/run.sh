#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest.
# Slow ones are opt-in: bash tests/run.sh -m slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source guard/environment.sh
set_up requirements.txt requirements-dev.txt
# The reference of the attacks pins an old `requests` that it hardly uses, so it comes without dependencies.
if ! "$PYTHON" -c 'import torchattacks' 2>/dev/null; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1
fi
exec "$PYTHON" -m pytest "$@"
