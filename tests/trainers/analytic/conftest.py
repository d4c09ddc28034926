"""One function of every kind, with numbers that are no special case."""

import pytest

from trainers.analytic.functions import FUNCTIONS, Extremal, Logistic, Power, Quadratic, ScalarNetwork
from trainers.analytic.theorem4 import Theorem4Flat, Theorem4Steep

EXAMPLES = {
    "quadratic": [Quadratic(eigenvalues=(3.0,)), Quadratic(eigenvalues=(0.5, 2.0, 1.0))],
    "power": [Power(exponent=2.0), Power(exponent=3.0, L1=0.7), Power(exponent=4.0, L1=2.0), Power(exponent=5.5)],
    "extremal": [Extremal(), Extremal(L0=0.3, L1=2.5)],
    "logistic": [Logistic(slope=3.0, L1=1.0), Logistic(slope=0.8, L1=2.0), Logistic()],
    "scalar_network": [ScalarNetwork(depth=k, L1=L1) for k in (1, 2, 3, 4, 5) for L1 in (0.5, 3.0)],
    "theorem4_steep": [Theorem4Steep(), Theorem4Steep(L1=3.0)],
    "theorem4_flat": [Theorem4Flat(epsilon=0.1), Theorem4Flat(epsilon=2.0)],
}
CASES = [function for functions in EXAMPLES.values() for function in functions]


def pytest_generate_tests(metafunc):
    if "function" in metafunc.fixturenames:
        metafunc.parametrize("function", CASES, ids=repr)
    if "line_function" in metafunc.fixturenames:
        metafunc.parametrize("line_function", [f for f in CASES if f.num_coordinates == 1], ids=repr)


@pytest.fixture(scope="session", autouse=True)
def _every_kind_has_examples():
    assert EXAMPLES.keys() == FUNCTIONS.keys()
