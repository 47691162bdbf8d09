#!/usr/bin/env bash
# The headline run: CIFAR-100, ResNet-18, K = 200 checkpoints of the last two normalization layers, and the networks,
# steps and learning rates of p-diff's second release. The comments of configs/experiment/cifar100_resnet18_k200.yaml say
# how its checkpoints differ from those of the release, which has K = 300, images of 224×224 and pretrained weights.
#   bash cifar100_resnet18_k200.sh [overrides]      both commands get every override, for example task.param.k=50
# The script uses .venv if scripts/setup.sh made it, otherwise the python on the PATH. Set PYTHON=… to use another one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python; }
"$PYTHON" task_training.py experiment=cifar100_resnet18_k200 "$@"
"$PYTHON" train_p_diff.py experiment=cifar100_resnet18_k200 "$@"
