"""Runs whose reports the tests of this folder look at; each is made once."""

import pytest
from report_runs import host_net, run, small_net

import knerex_jax as kx


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> kx.PTQResult:
    """The small net, with its error budget and an option that does not apply."""
    return run(small_net, tmp_path_factory.mktemp("good"), error_budget=True, outlier_factor=1.5)


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> kx.PTQResult:
    """Nodes on the processor, and an output whose range is a million times too wide: 0 dB."""
    wide = {"act": {"min": -1e6, "max": 1e6}}
    return run(host_net, tmp_path_factory.mktemp("bad"), quan_config=wide)


@pytest.fixture(scope="session")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> kx.PTQResult:
    """Mode 0."""
    return run(small_net, tmp_path_factory.mktemp("estimated"), mode=0)
