"""The conformance suite of environments on tau2."""

from __future__ import annotations

import pytest

pytest.importorskip("tau2.registry")

from rwml.testing import check_environment
from rwml_adapters.tau2.environment import tau2


@pytest.mark.parametrize("domain", ["retail", "telecom", "mock"])
@pytest.mark.parametrize("policy", ["oracle", "perturbed"])
def test_tau2_keeps_the_contract(domain: str, policy: str) -> None:
    check_environment(lambda: tau2(domain=domain, policy=policy, error_rate=0.6))
