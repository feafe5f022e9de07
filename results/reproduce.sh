#!/usr/bin/env bash
# Reproduces a published table: bash results/reproduce.sh TABLE [options]; --help names them.
# bash results/reproduce.sh judge --distilled FOLDER ... judges the distilled sets in a folder.
# Folders are those of the caller.
set -euo pipefail
unset CDPATH # with it cd may go elsewhere, and prints where it went
caller=$PWD
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source guard/environment.sh
module=guard.paper.reproduce
if [ "${1-}" = judge ]; then  # of others' distilled sets, which no plan knows
    module=train.judge
    shift
fi
if [[ " $* " == *" --help "* || $# = 0 ]]; then
    light=$(light_python)
    exec "$light" -m "$module" "${@:---help}"
fi
set_up requirements.txt
[[ $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
cd "$caller"
exec "$PYTHON" -P -m "$module" "$@" # -P: not the caller's own train.py
