import pytest

from timm_lipschitz.attacks import _autoattack, _bisection, _torchattacks


@pytest.fixture
def few_steps(monkeypatch):
    """Attacks of a few iterations, for tests in which it does not matter how strong they are."""
    monkeypatch.setattr(_autoattack, "_ITERATIONS", 6)
    monkeypatch.setattr(_autoattack, "_QUERIES", 12)
    monkeypatch.setattr(_torchattacks, "_STEPS", 4)
    monkeypatch.setattr(_torchattacks, "_APGD_STEPS", 4)
    monkeypatch.setattr(_torchattacks, "_QUERIES", 12)
    monkeypatch.setattr(_torchattacks, "_CW_STEPS", 4)
    monkeypatch.setattr(_torchattacks, "_POPULATION", 12)
    monkeypatch.setattr(_torchattacks, "_PIXLE_RESTARTS", 2)
    monkeypatch.setattr(_torchattacks, "_SPARSEFOOL_STEPS", 2)
    monkeypatch.setattr(_bisection, "_ITERATIONS", 6)
    monkeypatch.setattr(_bisection, "_ROUNDS", 4)
