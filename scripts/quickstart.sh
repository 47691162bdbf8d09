#!/usr/bin/env bash
# Install the packages once, then run both commands on real handwritten digits:
#   bash scripts/quickstart.sh [overrides]
# Both commands get every override, for example:
#   seed=43 task.param.path=param_data/seed43.safetensors output_dir=outputs/seed43
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
"$PYTHON" task_training.py "$@"
"$PYTHON" train_p_diff.py "$@"
