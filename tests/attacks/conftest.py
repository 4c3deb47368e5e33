import pytest

from timm_lipschitz.attacks import _autoattack, _torchattacks


@pytest.fixture
def few_steps(monkeypatch):
    """Attacks of a few iterations, for tests in which it does not matter how strong they are."""
    monkeypatch.setattr(_autoattack, "_ITERATIONS", 6)
    monkeypatch.setattr(_autoattack, "_QUERIES", 12)
    monkeypatch.setattr(_torchattacks, "_STEPS", 4)
    monkeypatch.setattr(_torchattacks, "_APGD_STEPS", 4)
    monkeypatch.setattr(_torchattacks, "_QUERIES", 12)
    monkeypatch.setattr(_torchattacks, "_CW_STEPS", 4)
