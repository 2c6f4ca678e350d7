#!/usr/bin/env bash
# All GPUs of this machine, in one process: JAX sees them all, `mesh.data=-1` uses them all.
#
# needs      an NVIDIA driver, and `pip install -c constraints.txt '.[cuda]'`
# command    launch/local_gpus.sh --config=configs/train/paper_resnet50.py --workdir=RUN --config.data.dir=DATA
# cost       osteojax compile-check --config=configs/train/paper_resnet50.py --topology=h100:8 --images=2114
#            the paper's 30 epochs: at least 0.7 s on eight H100, 1.0 s on eight A100; start and compilation take longer
# follow     tail -f RUN/metrics.jsonl; tensorboard --logdir RUN/tensorboard
# stop       Ctrl-C, or kill -TERM this script: it saves and ends
# resume     the same command
set -euo pipefail

if ! gpus=$(nvidia-smi --list-gpus 2>&1); then
    echo "local_gpus.sh: nvidia-smi finds no GPU: $gpus" >&2
    exit 2
fi
echo "$(grep -c '^GPU' <<<"$gpus") GPUs" >&2
exec "$(dirname "$0")/restart.sh" osteojax train "$@"
