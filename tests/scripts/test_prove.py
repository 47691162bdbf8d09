"""Random overrides of the configuration; the kills are in tests/pipeline/test_kills.py."""

import pytest
from hydra import compose, initialize_config_dir

from core.runtime.errors import UserError
from core.runtime.provenance import ROOT
from scripts.prove import overrides
from scripts.prove.commands import SMALL
from scripts.prove.overrides import ACCEPTED, REFUSED, prove_overrides, try_overrides

TRIES = 8


def test_random_overrides_end_without_a_traceback(tmp_path):
    result = prove_overrides(tmp_path, seed=0, count=TRIES)
    assert result["count"] == TRIES == sum(result.get(outcome, 0) for outcome in (ACCEPTED, REFUSED))
    assert result["names"] > 5 and not list(tmp_path.iterdir())


def test_a_traceback_is_found(monkeypatch):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        base = compose("base", overrides=list(SMALL))
    assert try_overrides(base, {"seed": 3}) == ACCEPTED and try_overrides(base, {"seed": "x"}) == REFUSED
    monkeypatch.setattr(overrides, "check_settings", lambda cfg: 1 / 0)
    with pytest.raises(UserError, match=r"\{'seed': 3\} ended with a traceback \(ZeroDivisionError"):
        try_overrides(base, {"seed": 3})
