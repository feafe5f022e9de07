#!/usr/bin/env bash
# Sets up what is missing and runs the tests, in a process of one thread for each core up to four; arguments
# go to pytest. Slow ones are opt-in: bash tests/run.sh -m slow. A debugger wants one process: -n 0 --pdb
set -euo pipefail
unset CDPATH # with it cd may go elsewhere, and prints where it went
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source guard/environment.sh
set_up requirements.txt requirements-dev.txt
# The reference of the attacks pins an old `requests` that it hardly uses, so it comes without dependencies.
if ! "$PYTHON" -c 'import torchattacks' 2>/dev/null; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps torchattacks==3.5.1
fi
cores=$("$PYTHON" -c 'import os; print(len(os.sched_getaffinity(0)))')
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -n $((cores < 4 ? cores : 4)) --dist worksteal "$@"
