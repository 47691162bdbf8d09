"""The precision of float32 products, read from switches of torch that also exist without a GPU."""

import pytest
import torch

from core.runtime.precision import set_float32_precision


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_precision_holds_inside_and_is_left_as_it_was(tf32):
    before = switches()
    assert before == (False, True), "torch has changed its defaults; update the docstring of set_float32_precision"
    with pytest.raises(RuntimeError, match="inside"), set_float32_precision(tf32):
        assert switches() == (tf32, tf32)
        raise RuntimeError("inside")
    assert switches() == before


def test_blocks_nest_and_decorate():
    @set_float32_precision()
    def exact():
        with set_float32_precision(tf32=True):
            inner = switches()
        return inner, switches()

    assert exact() == exact() == ((True, True), (False, False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_convolutions_are_exact_on_a_gpu():
    images, kernel = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3)
    with set_float32_precision():
        found = torch.nn.functional.conv2d(images.cuda(), kernel.cuda()).cpu()
    torch.testing.assert_close(found, torch.nn.functional.conv2d(images, kernel), rtol=1e-4, atol=1e-3)
