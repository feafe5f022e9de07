#!/usr/bin/env bash
# GUARD on and off on the embedded digits, five seeds each, with the recipe's defaults but for the protocol, paper alone, on all 355
# validation images. The two arms run side by side, a thread each: about 20 minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/digits
export OMP_NUM_THREADS=1
arm() {
    local name=$1 seed
    shift
    for seed in 0 1 2 3 4; do
        bash run.sh -p "$@" -x "$name-$seed" -y "$name-$seed" -s "$seed" -o "$out" -- train --protocol paper --images 0
    done
}
source guard/environment.sh && set_up requirements.txt
arm plain & plain=$!
arm guard -C
wait $plain
"$PYTHON" -m guard.paper.results results/digits.json --arm plain $out/plain-{0..4} --arm GUARD $out/guard-{0..4}
