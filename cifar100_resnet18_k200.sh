#!/usr/bin/env bash
# The headline run: CIFAR-100, ResNet-18, K = 200 checkpoints of the last two normalization layers. The paper used K = 300
# and images of 224×224.
#   bash cifar100_resnet18_k200.sh [overrides]      both commands get every override, for example task.param.k=50
# The script uses .venv if scripts/setup.sh made it, otherwise the python on the PATH. Set PYTHON=… to use another one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python; }
"$PYTHON" task_training.py experiment=cifar100_resnet18_k200 "$@"
"$PYTHON" train_p_diff.py experiment=cifar100_resnet18_k200 "$@"
