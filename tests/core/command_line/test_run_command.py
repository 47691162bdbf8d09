"""What the command lines of scripts/ make of a mistake."""

import pytest
from torch.utils.data import DataLoader, Dataset

from core.command_line.run_command import run_command
from core.runtime.errors import UserError


class Refusing(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise UserError("image 3.jpg cannot be read; remove it")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_is_one_sentence_also_from_a_process_that_loads_images(num_workers):
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: len(list(DataLoader(Refusing(), num_workers=num_workers))))
    assert stop.value.code == "error: image 3.jpg cannot be read; remove it"
