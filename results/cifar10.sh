#!/usr/bin/env bash
# GUARD on and off on CIFAR-10 at CPU size: ConvNet-3 of width 32, 3,000 training images, 8 epochs, 10 images per class, 100 test images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/cifar10
for arm in plain guard; do
    guard=(); [ $arm = plain ] || guard=(-C)
    bash run.sh -d cifar10 -r "${1:-data/raw}" -p "${guard[@]}" -x $arm -y $arm -o $out -m convnet-32 -e convnet-32 -c 10 -i 250 -b 1 -z 200 -- \
        pretrain --images 300 --epochs 8 --curvature-images 100 train --images 10
done
source guard/environment.sh && set_up requirements.txt
"$PYTHON" -m guard.results results/cifar10.json --arm plain $out/plain --arm GUARD $out/guard
