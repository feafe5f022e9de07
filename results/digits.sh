#!/usr/bin/env bash
# GUARD on and off on the embedded digits, five seeds each, with the recipe's defaults. About 10 minutes on two CPU cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/digits
for seed in 0 1 2 3 4; do
    bash run.sh -p -x plain-$seed -y plain-$seed -s $seed -o $out
    bash run.sh -p -C -x guard-$seed -y guard-$seed -s $seed -o $out
done
source guard/environment.sh && set_up requirements.txt
"$PYTHON" -m guard.results results/digits.json --arm plain $out/plain-{0..4} --arm GUARD $out/guard-{0..4}
