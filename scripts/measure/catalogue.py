"""Every measurement behind a number in README and docs: its commands, and the source files that decide it."""

from collections.abc import Sequence
from dataclasses import dataclass

PIPELINE = (
    "task_training.py",
    "train_p_diff.py",
    "core/checkpoints/*.py",
    "core/diffusion/*.py",
    "core/evaluation/*.py",
    "core/generation/*.py",
    "core/networks/*.py",
    "core/runtime/*.py",
    "core/training/*.py",
    "tasks/**/*.py",
    "configs/base.yaml",
    "configs/system/**/*.yaml",
    "configs/task/common.yaml",
    "configs/task/digits.yaml",
    "configs/task/collect/*.yaml",
)
QUICKSTART = (*PIPELINE, "configs/task/model/resnet18.yaml")
BENCHMARK = (*PIPELINE, "scripts/benchmark/*.py")
# The runs of "quickstart", which "rules" reads. Both measurements have the same code, so their folders are neighbors.
FIVE_RUNS = " ".join(f"{{out}}/../quickstart/seed={seed}" for seed in range(1, 6))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Commands that are run one after the other, and what of their output is kept.

    In a command, {out} is the folder of its runs and {data} a folder for checkpoints that measurements of the same code
    share.
    """

    title: str
    steps: Sequence[str]
    code: Sequence[str] = PIPELINE  # glob patterns of the source files that decide the numbers
    # "runs": settings and metrics.json of every run below {out}; any other NAME: the file {out}/NAME.json.
    kept: str = "runs"


def sweep(overrides: str, checkpoints: str, out: str = "{out}") -> str:
    """Return the command that trains classifiers and generators for each combination of swept overrides."""
    path = f"'task.param.path={{data}}/{checkpoints}.safetensors'"
    return f"bash scripts/quickstart.sh -m {overrides} {path} output_dir={out}"


def ablation(title: str, overrides: str) -> Measurement:
    """Return a measurement that varies the generator alone, over one file of checkpoints."""
    base = "experiment=ablation task.param.path={data}/ablation.safetensors"
    return Measurement(
        title=title,
        steps=[
            f"python task_training.py {base} task.param.k=200",
            f"python train_p_diff.py -m {base} {overrides} output_dir={{out}}",
        ],
        code=(*PIPELINE, "configs/experiment/ablation.yaml"),
    )


def collected(title: str, *sweeps: str) -> Measurement:
    """Return an ablation whose settings each need checkpoints of their own."""
    steps = [
        sweep(f"experiment=ablation {overrides}", f"{{name}}_{index}_${{hydra:job.num}}", f"{{out}}/{index}")
        for index, overrides in enumerate(sweeps)
    ]
    return Measurement(title=title, steps=steps, code=(*PIPELINE, "configs/experiment/ablation.yaml"))


def architecture(model: str) -> Measurement:
    """Return the measurement of a small version of one of the paper's architectures, with three seeds."""
    return Measurement(
        title=f"A small {model} on digits, three trainings",
        steps=[sweep(f"experiment=digits_{model} seed=1,2,3 'task.data.split_seed=${{seed}}'", f"{model}_${{seed}}")],
        code=(
            *PIPELINE,
            f"configs/task/model/{model}.yaml",
            "configs/experiment/small_architectures.yaml",
            f"configs/experiment/digits_{model}.yaml",
        ),
    )


def digits_task(task: str) -> Measurement:
    """Return the measurement of another task than classification, or of adapters, on digits with three seeds."""
    return Measurement(
        title=f"experiment=digits_{task}, three trainings",
        steps=[sweep(f"experiment=digits_{task} seed=1,2,3 'task.data.split_seed=${{seed}}'", f"{task}_${{seed}}")],
        code=(
            *PIPELINE,
            "configs/task/digits*.yaml",
            "configs/task/model/*_small.yaml",
            "configs/task/model/vit_tiny.yaml",
            "configs/experiment/small_architectures.yaml",
            f"configs/experiment/digits_{task}.yaml",
        ),
    )


def whole_network(model: str) -> Measurement:
    """Return the measurement of a small network whose every parameter is generated, with three seeds."""
    return Measurement(
        title=f"Every parameter of {model} on digits, three trainings",
        steps=[
            sweep(
                f"experiment=whole_network task.model={model} seed=1,2,3 'task.data.split_seed=${{seed}}'",
                f"{model}_${{seed}}",
            )
        ],
        code=(*PIPELINE, f"configs/task/model/{model}.yaml", "configs/experiment/whole_network.yaml"),
    )


def fidelity(title: str, *runs: str) -> Measurement:
    """Return an ablation of a choice in which p-diff's releases differ from the default, one training per run."""
    base = "experiment=ablation task.param.path={data}/ablation.safetensors"
    return Measurement(
        title=title,
        steps=[
            f"python task_training.py {base} task.param.k=200",
            *(f"python train_p_diff.py {base} {run} output_dir={{out}}/{index}" for index, run in enumerate(runs)),
        ],
        code=(*PIPELINE, "configs/experiment/ablation.yaml"),
    )


def proof(name: str, title: str) -> Measurement:
    """Return a proof of docs/reliability.md."""
    step = f"python -m scripts.prove {name} --out {{out}}"
    return Measurement(title=title, steps=[step], code=(*PIPELINE, "scripts/prove/*.py"), kept=name)


PROOFS = {
    "kills": "30 kills at random moments of every stage",
    "disk_full": "A full disk in every stage",
    "overrides": "500 random overrides of the configuration",
}
NARROW = "system.denoiser=conv 'system.denoiser.channels=[16,32,64,32,16,1]'"
# p-diff's convolutional denoiser with a quarter of its channels, which takes a sixteenth of the time on a CPU.
QUARTER = "'system.denoiser.channels=[16,32,64,128,64,32,16,1]'"
RELEASE2_STEPS = (
    "system.autoencoder_steps=500 system.autoencoder_optimizer.lr=2e-5 system.autoencoder_optimizer.weight_decay=0 "
    "system.diffusion_steps=2000 system.denoiser_optimizer.lr=1e-4 system.denoiser_optimizer.weight_decay=0"
)
# The first release in its `small` version, since 512 parameters are too few for `medium`. It is trained for a twentieth
# of its steps, so its weights are averaged over a twentieth of the steps, too: the decay is 0.9999^20.
SHORT_RELEASE1 = (
    "system=release1 system.autoencoder.fold=3 'system.autoencoder.encoder_channels=[2,2,2,2]' "
    "'system.autoencoder.decoder_channels=[2,64,64,8]' 'system.denoiser.channels=[16,32,64,128]' "
    "system.autoencoder_steps=1500 system.diffusion_steps=1500 system.ema_decay=0.998"
)
NORMS = 'task.param.subset=["layer4.1.bn*.[wb]*"],["layer4.0.bn*.[wb]*"],["layer3.*.bn*.[wb]*"]'

MEASUREMENTS: dict[str, Measurement] = {
    "quickstart": Measurement(
        title="The quickstart, five trainings on five splits of the digits",
        steps=[sweep("seed=1,2,3,4,5 'task.data.split_seed=${seed}'", "quickstart_${seed}")],
        code=QUICKSTART,
    ),
    "rules": Measurement(
        title="The rules for choosing one model, compared on the five trainings of the quickstart",
        steps=[f"python -m scripts.compare_rules {FIVE_RUNS} --out {{out}}/rules.json"],
        code=QUICKSTART,
        kept="rules",
    ),
    "first_look": Measurement(
        title="A first look at the quickstart, with shorter trainings and fewer models",
        steps=[
            "bash scripts/quickstart.sh task.epochs=3 task.param.k=30 generation.num_models=30 "
            "evaluation.num_baselines=10 task.param.path={data}/first_look.safetensors output_dir={out}/0"
        ],
        code=QUICKSTART,
    ),
    "rounding": Measurement(
        title="The first training of the quickstart on all cores, which round differently from one",
        steps=[
            "bash scripts/quickstart.sh seed=1 task.data.split_seed=1 task.param.path={data}/rounding.safetensors "
            "output_dir={out}/0"
        ],
        code=QUICKSTART,
    ),
    **{
        f"small_{model}": architecture(model)
        for model in ("resnet18", "resnet50", "vit_tiny", "vit_base", "convnext_tiny", "convnext_base")
    },
    **{task: digits_task(task) for task in ("segmentation", "detection", "generation", "lora")},
    **{f"whole_{model}": whole_network(model) for model in ("convnet_mini", "mlp_mini")},
    "ablation_seed": ablation("p-diff's own seed", "task.seed=42 seed=0,1,2,3"),
    "ablation_k": ablation("How many checkpoints (K)", "task.param.k=10,50,100,200"),
    "ablation_noise": ablation(
        "Noise on the vector and on the latent",
        "system.autoencoder.input_noise=0,0.001 system.autoencoder.latent_noise=0,0.1",
    ),
    "ablation_latent_noise": ablation(
        "How much noise on the latent", "system.autoencoder.latent_noise=0.001,0.01,1,10"
    ),
    "ablation_steps": ablation(
        "Diffusion steps (T)",
        "system.schedule.num_timesteps=10,100,1000,2000 system.sampler=ddpm "
        "'system.sampler.num_steps=${system.schedule.num_timesteps}'",
    ),
    "ablation_system": ablation("A VAE instead of diffusion", "system=ae_ddpm,vae"),
    "ablation_autoencoder": ablation("Other autoencoders", "system.autoencoder=small,pca,chunked"),
    "ablation_lr": collected("Learning rate while collecting", "task.collect.optimizer.lr=0.003,0.03,0.3"),
    "ablation_epochs": collected("Originals trained for fewer epochs", "task.epochs=1,3,10"),
    "ablation_layers": collected(
        "Which layers",
        f"'{NORMS}'",
        '\'task.param.subset=["conv1.weight"],["fc.*"]\' task.collect.optimizer.lr=3e-4',
    ),
    "ablation_optimizer": collected(
        "Optimizer of the originals",
        "task.collect.optimizer._target_=torch.optim.AdamW,torch.optim.Adam",
        "task.collect.optimizer._target_=torch.optim.SGD +task.collect.optimizer.momentum=0.9 "
        "task.collect.optimizer.lr=0.03,0.3,1",
    ),
    "collapse": Measurement(
        title="Whole networks with and without standardized latents",
        steps=[
            f"bash scripts/quickstart.sh -m experiment=whole_network system.autoencoder=small {denoiser} "
            "system.autoencoder_steps=200 system.latent_normalization=per_coordinate,none generation.num_models=50 "
            "evaluation.num_baselines=5 task.param.path={data}/collapse.safetensors output_dir={out}/" + folder
            for denoiser, folder in ((NARROW, "conv"), ("system.denoiser=mlp", "mlp"))
        ],
        code=(*PIPELINE, "configs/task/model/convnet_mini.yaml", "configs/experiment/whole_network.yaml"),
    ),
    "fidelity_default": fidelity("The default system, beside which the other fidelity_* runs stand", ""),
    "fidelity_ema": fidelity("No average of the denoiser's weights", "system.ema_decay=null"),
    "fidelity_activation": fidelity("LeakyReLU in the encoder", "system.autoencoder.activation=leaky_relu"),
    "fidelity_residual": fidelity("The MLP denoiser without its sum", "system.denoiser.residual=false"),
    "fidelity_sampler": fidelity("Other samplers", "system.sampler=ddim", "system.sampler=ddpm"),
    "fidelity_steps": fidelity("Steps and learning rates of the second release", RELEASE2_STEPS),
    "fidelity_time": fidelity(
        "A fixed and a learned embedding of the timestep",
        *(f"{NARROW} system.denoiser.learn_time={learned}" for learned in ("false", "true")),
    ),
    "fidelity_releases": fidelity(
        "The paper's networks and both releases: denoisers with a quarter of their channels, and the first release in "
        "its small version with a twentieth of its steps",
        f"system.autoencoder=paper system.denoiser=conv system.sampler=ddpm {QUARTER}",
        SHORT_RELEASE1,
        f"system=release2 {QUARTER}",
    ),
    "independent": Measurement(
        title="Networks of independent trainings",
        steps=[
            "bash scripts/quickstart.sh experiment=whole_network task.collect=independent task.collect.runs=20 "
            "task.epochs=30 evaluation.num_baselines=20 task.param.path={data}/independent.safetensors "
            "output_dir={out}/0"
        ],
        code=(*PIPELINE, "configs/task/model/convnet_mini.yaml", "configs/experiment/whole_network.yaml"),
    ),
    **{f"proof_{name}": proof(name, title) for name, title in PROOFS.items()},
    "benchmark": Measurement(
        title="Each stage against the reference procedure",
        steps=[
            "bash scripts/quickstart.sh task.param.path={data}/quickstart.safetensors output_dir={out}/quickstart",
            "python -m scripts.benchmark --repeats 3 --run {out}/quickstart --out {out}",
        ],
        code=BENCHMARK,
        kept="benchmark",
    ),
}
