#!/usr/bin/env bash
# From nothing to an accuracy table on real handwritten digits: bash scripts/quickstart.sh [overrides]
# Overrides go to both commands, for example: seed=43 task.param.path=param_data/seed43.safetensors output_dir=outputs/seed43
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$PYTHON" task_training.py "$@"
"$PYTHON" train_p_diff.py "$@"
