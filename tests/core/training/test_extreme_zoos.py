"""A generator of zoos at the edge: two checkpoints, one parameter, parameters that never change."""

from dataclasses import replace

import pytest
import torch

from core.checkpoints.subset import ParameterSubset
from core.checkpoints.vector_rows import VectorRows
from core.runtime.errors import UserError
from core.runtime.progress import Stages
from core.training.fit_generator import fit_generator
from tests.core.tiny import cpu_trainer, make_checkpoints, make_network
from tests.core.training.test_fit_generator import make_spec
from train_p_diff import require_finite

VECTORS = {
    "two checkpoints": torch.randn(2, 7, generator=torch.Generator().manual_seed(0)),
    "one parameter": torch.linspace(-1, 1, 12)[:, None],
    "constant parameters": torch.randn(12, 7, generator=torch.Generator().manual_seed(0)) * (torch.arange(7) > 3) + 2,
}


@pytest.mark.parametrize("vectors_KD", VECTORS.values(), ids=list(VECTORS))
def test_a_generator_of_an_extreme_zoo_samples_finite_numbers_near_it(vectors_KD, tiny_system, tmp_path):
    subset = ParameterSubset(("first.bias", "second.bias"), ((4,), (3,))) if vectors_KD.shape[1] == 7 else None
    checkpoints = replace(
        make_checkpoints(make_network()),
        rows=VectorRows([vectors_KD]),
        accuracy_K=torch.ones(len(vectors_KD)),
        subset=subset or ParameterSubset(("only.scale",), ((1,),)),
    )
    generator = fit_generator(
        make_spec(tiny_system),
        checkpoints,
        seed=0,
        state_dir=tmp_path,
        make_trainer=cpu_trainer(),
        loggers=[],
        stages=Stages(["autoencoder", "diffusion"]),
    )
    vectors_MD = generator.sample(0, range(5))
    require_finite(vectors_MD)
    assert vectors_MD.shape == (5, vectors_KD.shape[1]) and (vectors_MD - vectors_KD.mean(dim=0)).abs().max() < 20


def test_models_that_hold_nan_are_refused_with_the_number_of_the_first():
    vectors_MD = torch.zeros(4, 3)
    require_finite(vectors_MD)
    vectors_MD[2, 1] = torch.nan
    vectors_MD[3, 0] = torch.inf
    with pytest.raises(
        UserError, match=r"^2 of 4 generated models hold NaN or infinity \(the first is model 2\)\. Set"
    ):
        require_finite(vectors_MD)
