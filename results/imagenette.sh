#!/usr/bin/env bash
# GUARD on and off on three classes of Imagenette at CPU size: ResNet-18 at 64 pixels, 300 training images, 4 epochs, 5 images per class,
# 60 validation images under PGD-20 alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=${1:-data/raw} out=runs/imagenette
source guard/environment.sh && set_up requirements.txt
[ -d "$root/imagenette-3" ] || "$PYTHON" -m data.prepare subset imagenette-3 --from "$root/imagenette" --root "$root" --classes n01440764,n02979186,n03028079
for arm in plain guard; do
    guard=(); [ $arm = plain ] || guard=(-C)
    bash run.sh -d imagenette-3 -r "$root" -p "${guard[@]}" -x $arm -y $arm -o $out -c 5 -i 100 -b 1 -z 60 -- \
        pretrain --images 100 --epochs 4 --image-size 64 --curvature-images 30 train --images 20 --protocol quick
done
"$PYTHON" -m guard.results results/imagenette.json --arm plain $out/plain --arm GUARD $out/guard
