#!/usr/bin/env bash
# Reproduces a published table: bash results/reproduce.sh TABLE [options]; --help names them.
# Folders are those of the caller.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source guard/environment.sh
if [[ " $* " == *" --help "* || $# = 0 ]]; then
    exec "$(light_python)" -m guard.paper.reproduce "${@:---help}"
fi
set_up requirements.txt
[[ $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
cd "$caller"
exec "$PYTHON" -m guard.paper.reproduce "$@"
