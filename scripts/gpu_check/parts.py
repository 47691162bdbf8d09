"""The list of the parts: name, purpose, time limit and goal."""

import sys
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 480.0


@dataclass(frozen=True)
class Part:
    """One part, which runs in a process of its own.

    Args:
        name: The name of the part and of its module `scripts.gpu_check.<name>`.
        about: The work of the part, shown in the plan and in progress lines.
        goal: The result to reach, shown in the tables.
        limit_s: The number of seconds after which the part is ended.
        command: A command that tests run in place of the module, with the path of the findings appended.
    """

    name: str
    about: str
    goal: str = "ends without an error"
    limit_s: float = LIMIT_S
    command: tuple[str, ...] = ()

    def argv(self, findings: Path, rehearse: bool) -> list[str]:
        """Return the command that runs the part and writes its results to `findings`."""
        if self.command:
            return [*self.command, str(findings)]
        module = [sys.executable, "-m", "scripts.gpu_check.part", self.name, "--findings", str(findings)]
        return [*module, "--rehearse"] if rehearse else module


PARTS = (
    Part(
        "tests",
        "the tests in tests/gpu: scoring, training, resuming, sampling and compiling on the GPU",
        "every test passes",
    ),
    Part("quickstart", "task_training.py and train_p_diff.py on digits with the default settings, in an empty folder"),
    Part(
        "cifar100", "both commands on data shaped like CIFAR-100, with the networks of the second release at batch 200"
    ),
    Part(
        "vit_base",
        "ViT-Base at 224×224 with random weights: training its last norm layers, and scoring in fp32, TF32 and bf16",
    ),
    Part("scoring", "200 ResNet-18 on 10,000 images of 32×32, in fp32, TF32 and bf16", "1 s in TF32"),
    Part(
        "training",
        "a step of the paper's autoencoder and denoiser at batch 200, eager and compiled",
        "3 ms a step in TF32, 1.5 ms in bf16",
    ),
    Part(
        "profile",
        "the most expensive kernels of each hot loop, and how often it waits",
        "the GPU is busy 80% of the time",
    ),
    Part(
        "releases",
        "the systems of p-diff's two releases at full length, beside the default and the paper's networks, on digits",
        limit_s=1800.0,
    ),
)
