#!/usr/bin/env bash
# Sets up what is missing and runs the tests; arguments go to pytest. Slow ones are opt-in: bash tests/run.sh -m slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source guard/environment.sh
set_up requirements.txt requirements-dev.txt
exec "$PYTHON" -m pytest "$@"
