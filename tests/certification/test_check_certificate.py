"""The checker: what it proves holds in rational arithmetic, what is false it refuses, and it trusts no file."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from certification.matrix_networks import dense_inequality, identity_certificate, is_definite, sandwich_certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.certification import check_certificate
from timm_lipschitz.certification.check_certificate import (
    Certificate,
    MalformedError,
    NotProvedError,
    decimal_up,
    loosen,
    main,
    prove,
    read_certificate,
    read_safetensors,
    shift,
)
from timm_lipschitz.layers import ACTIVATIONS


def with_weight(certificate: Certificate, k: int, weight: np.ndarray) -> Certificate:
    weights = list(certificate.weights)
    weights[k] = weight
    return replace(certificate, weights=tuple(weights))


def proved(certificate: Certificate) -> bool:
    try:
        return prove(certificate) >= 0
    except NotProvedError:
        return False


def smallest_eigenvalue(certificate: Certificate) -> float:
    """Of H with a diagonal of ones, by a dense decomposition in float64."""
    widths = certificate.widths
    edges = np.cumsum([0, *widths])
    gamma = np.full(max(widths), certificate.lipschitz)
    diagonal = np.concatenate([gamma[: widths[0]], *(2 * m for m in certificate.multipliers), gamma[: widths[-1]]])
    h = np.zeros((edges[-1], edges[-1]))
    for k, weight in enumerate(certificate.weights):
        scale = certificate.multipliers[k][:, None] if k < len(certificate.multipliers) else 1.0
        h[edges[k + 1] : edges[k + 2], edges[k] : edges[k + 1]] = -scale * weight
    h = h + h.T + np.diag(diagonal)
    return float(np.linalg.eigvalsh(h / np.sqrt(diagonal) / np.sqrt(diagonal)[:, None])[0])


# The proof


@pytest.mark.parametrize("widths", [[2, 3], [1, 1, 1], [3, 4, 2], [2, 5, 3, 4]])
@pytest.mark.parametrize("gamma", [1.0, 0.3, 20.0])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_a_proof_agrees_with_rational_arithmetic(widths: list[int], gamma: float, spread: float) -> None:
    certificate = sandwich_certificate(widths, gamma, spread)
    loosened = loosen(certificate, 1e-7)
    assert is_definite(dense_inequality(loosened))
    assert proved(loosened)
    assert loosened.lipschitz == pytest.approx(gamma * (1 + 1e-7) ** ((len(widths) - 1) / 2), rel=1e-12)
    steeper = replace(loosened, weights=tuple(weight * (1 + 1e-3) for weight in loosened.weights))
    assert not (proved(steeper) and not is_definite(dense_inequality(steeper)))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 3), min_size=2, max_size=4),
    st.floats(-1e-13, 1e-13),
    st.sampled_from([0.0, 1.0, 20.0]),
    st.floats(1e-3, 1e3),
)
def test_nothing_is_proved_that_is_not_so(
    seed: int, widths: list[int], nudge: float, spread: float, gamma: float
) -> None:
    """At the edge itself: a claim within rounding of what makes H singular."""
    certificate = loosen(sandwich_certificate(widths, gamma, spread, seed), 0.0)
    certificate = replace(certificate, lipschitz=certificate.lipschitz * (1 + nudge))
    assert not proved(certificate) or is_definite(dense_inequality(certificate))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 3), min_size=2, max_size=4), st.sampled_from([0.0, 20.0]))
def test_a_loosening_of_four_shifts_is_always_enough(seed: int, widths: list[int], spread: float) -> None:
    certificate = sandwich_certificate(widths, 1.0, spread, seed)
    if not is_definite(dense_inequality(loosen(certificate, 1e-12))):
        return  # rounding in this file's own construction made the network steeper than that
    assert proved(loosen(certificate, 4 * shift(certificate) + 2e-12))


@pytest.mark.parametrize("depth", [0, 1, 2, 8])
def test_networks_that_reach_their_bound(depth: int) -> None:
    """A millionth steeper than claimed is refused, a millionth less is proved."""
    certificate = identity_certificate(depth)
    assert not proved(certificate)
    assert proved(loosen(certificate, 1e-7))
    steep = with_weight(certificate, depth, certificate.weights[depth] * (1 + 1e-6))
    assert not proved(loosen(steep, 1e-7 / (depth + 1)))
    assert proved(loosen(with_weight(certificate, 0, certificate.weights[0] * (1 - 1e-6)), 1e-12)) or depth > 1


@pytest.mark.parametrize("widths", [[5, *[20] * 20, 3], [3, 400, 2], [300, 20, 300]], ids=["deep", "wide", "ends"])
@pytest.mark.parametrize("spread", [0.0, 20.0])
def test_deep_and_wide_networks_of_any_scale(widths: list[int], spread: float) -> None:
    certificate = loosen(sandwich_certificate(widths, 2.0, spread), 1e-7)
    assert smallest_eigenvalue(certificate) > 0
    assert prove(certificate) > 0
    for k in range(len(certificate.weights)):
        steeper = with_weight(certificate, k, certificate.weights[k] * 1.001)
        assert smallest_eigenvalue(steeper) < -1e-12
        assert not proved(steeper)


def test_wrong_multipliers_prove_nothing() -> None:
    certificate = loosen(sandwich_certificate([3, 4, 5, 2]), 1e-7)
    assert proved(certificate)
    first, second = certificate.multipliers
    for wrong in ((first * 2, second), (first, second / 2), (np.array([1.0, 1, 1, 3]), second)):
        assert not proved(replace(certificate, multipliers=wrong))
    # half of Psi^2, as the paper's main text prints: another matrix's multipliers
    assert not proved(replace(certificate, multipliers=(first / 2, second / 2)))


def test_every_entry_counts() -> None:
    """One entry larger by a hundredth: no longer proved wherever it is no longer true."""
    certificate = loosen(sandwich_certificate([2, 3, 2], seed=3), 1e-7)
    refused = 0
    for k, weight in enumerate(certificate.weights):
        for index in np.ndindex(weight.shape):
            changed = weight.copy()
            changed[index] *= 1.01
            tampered = with_weight(certificate, k, changed)
            assert proved(tampered) == is_definite(dense_inequality(tampered))
            refused += not proved(tampered)
    assert refused >= 3


@pytest.mark.parametrize("function", ["cholesky", "solve"])
@pytest.mark.parametrize("error", [1e-6, 0.1, math.nan])
def test_a_wrong_factor_proves_nothing(function: str, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof rests on products alone, not on the factorisation."""
    certificate = loosen(sandwich_certificate([3, 4, 2]), 1e-5)
    assert proved(certificate)
    real = getattr(np.linalg, function)
    monkeypatch.setattr(np.linalg, function, lambda *arguments: real(*arguments) * (1 + error))
    with pytest.raises(NotProvedError, match=r"rounding may hide|not strictly definite"):
        prove(certificate)


def test_every_block_of_the_residual_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = loosen(sandwich_certificate([5, 3, 7, 2]), 1e-5)
    c = shift(certificate)

    def residual(target: np.ndarray, missing: object, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.full((len(left), len(right)), c / 100)

    monkeypatch.setattr(check_certificate, "_residual", residual)
    # the largest row sum is that of the hidden layer of 3, between 5 and 7
    assert prove(certificate) == pytest.approx(c * (1 - 0.15), rel=1e-5)


@pytest.mark.parametrize("widths", [[3, 4, 2], [2, 3, 3, 3, 2], [2, 2]])
def test_loosening_adds_to_the_diagonal_evenly(widths: list[int]) -> None:
    certificate = sandwich_certificate(widths, spread=1.0)
    assert smallest_eigenvalue(certificate) == pytest.approx(0, abs=1e-12)
    assert smallest_eigenvalue(loosen(certificate, 0.01)) == pytest.approx(1 - 1.01**-0.5, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(1e-8, 1.0))
def test_residuals_bound_the_exact_ones(seed: int, terms: int, size: float) -> None:
    generator = np.random.default_rng(seed)
    left, right = generator.standard_normal((2, terms)), generator.standard_normal((3, terms)) * size
    target = left @ right.T  # so that nothing is left but rounding
    missing = np.full((2, 3), 1e-18)
    bound = check_certificate._residual(target, missing, left, right)
    for i in range(2):
        for j in range(3):
            exact = sum((Fraction(a) * Fraction(b) for a, b in zip(left[i], right[j], strict=True)), Fraction(0))
            # sums of nonnegative terms may round, as `prove` allows for
            allowed = Fraction(float(bound[i, j])) * (1 + Fraction(1, 2**20))
            assert abs(Fraction(target[i, j]) - exact) + Fraction(1e-18) <= allowed


def test_scaled_blocks_are_exact_but_for_one_rounding() -> None:
    certificate = sandwich_certificate([2, 3, 2], gamma=0.7, spread=15.0)
    h = dense_inequality(certificate)
    widths = certificate.widths
    start = 0
    scales: list[Fraction] = []
    for k, (diagonal, below) in enumerate(check_certificate._scaled_blocks(certificate)):
        assert ((diagonal >= 0.5) & (diagonal < 2)).all()
        rows = range(start, start + widths[k])
        squares = [Fraction(float(diagonal[i - start])) / h[i][i] for i in rows]  # squares of powers of two
        scales += [Fraction(math.isqrt(s.numerator), math.isqrt(s.denominator)) for s in squares]
        assert [s**2 for s in scales[start:]] == squares
        for i in rows:
            for j, column in enumerate(range(start - below.shape[1], start)):
                exact = h[i][column] * scales[i] * scales[column]
                assert abs(Fraction(float(below[i - start, j])) - exact) <= abs(exact) * Fraction(2) ** -53
        start += widths[k]


def test_activations_are_those_of_the_layers() -> None:
    assert set(ACTIVATIONS) == check_certificate.ACTIVATIONS


# What the theorem does not speak about


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lipschitz": 0.0}, "lipschitz is 0.0"),
        ({"lipschitz": -1.0}, "lipschitz is -1.0"),
        ({"lipschitz": math.nan}, "lipschitz is nan"),
        ({"lipschitz": math.inf}, "lipschitz is inf"),
        ({"lipschitz": 1e200}, "lipschitz is 1e[+]200"),
        ({"activations": ("abs",)}, "activation 'abs' is not known"),
        ({"activations": ("gelu",)}, "activation 'gelu' is not known"),
        ({"activations": ()}, "2 weights need"),
        ({"multipliers": ()}, "2 weights need"),
        ({"biases": ()}, "2 weights need"),
        ({"multipliers": (np.array([1.0, 0.0, 1.0]),)}, "multiplier.00 goes down to 0"),
        ({"multipliers": (np.array([1.0, -1.0, 1.0]),)}, "multiplier.00 goes down to -1"),
        ({"multipliers": (np.array([1.0, math.nan, 1.0]),)}, "multiplier.00 holds NaN"),
        ({"multipliers": (np.array([1.0, 1e300, 1.0]),)}, "multiplier.00 holds NaN, infinity or values beyond"),
        ({"multipliers": (np.ones(2),)}, r"multiplier.00 has shape \(2,\), not \(3\)"),
        ({"multipliers": (np.ones((3, 1)),)}, r"multiplier.00 has shape \(3, 1\)"),
        ({"weights": (np.ones((3, 2)), np.ones((2, 2)))}, r"weight.01 has shape \(2, 2\), not \(n, 3\)"),
        ({"weights": (np.ones((3, 0)), np.ones((2, 3)))}, r"weight.00 has shape \(3, 0\)"),
        ({"weights": (np.ones((3, 2)) * math.inf, np.ones((2, 3)))}, "weight.00 holds NaN"),
        ({"weights": (np.ones((3, 2)), np.full((2, 3), math.nan))}, "weight.01 holds NaN"),
        ({"weights": (np.ones((3, 2)), np.full((2, 3), 1e130))}, "weight.01 holds NaN, infinity or values beyond"),
        ({"weights": (np.ones((3, 2), dtype=np.float32), np.ones((2, 3)))}, "weight.00 is float32"),
        ({"biases": (np.ones(3), np.array([0.0, math.nan]))}, "bias.01 holds NaN"),
        ({"biases": (np.ones(2), np.ones(2))}, r"bias.00 has shape \(2,\)"),
    ],
)
def test_values_that_the_theorem_does_not_speak_about(change: dict[str, object], message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        replace(sandwich_certificate([2, 3, 2]), **change)


# Files


def write(folder: Path, certificate: Certificate, **claim: object) -> None:
    arrays = {}
    for k, (weight, bias) in enumerate(zip(certificate.weights, certificate.biases, strict=True)):
        arrays |= {f"weight.{k:02d}": weight, f"bias.{k:02d}": bias}
    arrays |= {f"multiplier.{k:02d}": m for k, m in enumerate(certificate.multipliers)}
    (folder / "certificate.safetensors").write_bytes(safetensors.numpy.save(arrays, {"about": "test"}))
    claim = {"lipschitz": certificate.lipschitz, "activations": list(certificate.activations), **claim}
    (folder / "certificate.json").write_text(json.dumps(claim))


def test_files_are_read_back_to_the_bit(tmp_path: Path) -> None:
    certificate = sandwich_certificate([2, 3, 4, 2], gamma=1 / 3)
    write(tmp_path, certificate)
    found = read_certificate(tmp_path)
    assert found.lipschitz == certificate.lipschitz
    assert found.activations == certificate.activations
    for name in ("weights", "biases", "multipliers"):
        for one, other in zip(getattr(found, name), getattr(certificate, name), strict=True):
            assert np.array_equal(one, other)


def test_float32_arrays_are_widened_exactly(tmp_path: Path) -> None:
    arrays = {"a": np.float32([[0.1, 2.0]]), "b": np.float64([0.1])}
    (tmp_path / "x").write_bytes(safetensors.numpy.save(arrays))
    found = read_safetensors(tmp_path / "x")
    assert {name: array.dtype for name, array in found.items()} == {"a": np.float64, "b": np.float64}
    assert np.array_equal(found["a"], arrays["a"].astype(np.float64))


def header(entries: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, dtype: str = "F64", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a header of 0 bytes in a file of 0"),
        (b"\x01\x00", "a header of 1 bytes in a file of 2"),
        (header({}, length=2**63), "a header of 9223372036854775808 bytes"),
        (header({}, length=3), "a header of 3 bytes in a file of 10"),
        (header(b" " * (10**7 + 1)), "a header of 10000001 bytes"),
        (header(b"{"), "cannot be read"),
        (header(b"\xff\xfe"), "cannot be read"),
        (header(b"[" * 200_000), "cannot be read"),
        (header([1]), "the header is no JSON object"),
        (header(b'{"a": 1, "a": 2}'), "a name is given twice"),
        (header({"a": 1}), "'a' is not described as an array"),
        (header({"a": entry(0, 2, "F16")}, b"00"), "'a' is not described as an array"),
        (header({"a": entry(0, 8, shape=[-1])}, b"0" * 8), "'a' is not described as an array"),
        (header({"a": entry(0, 8, shape=[1.0])}, b"0" * 8), "'a' is not described as an array"),
        (header({"a": entry(0, 8, shape=[True])}, b"0" * 8), "'a' is not described as an array"),
        (header({"a": entry(-8, 0)}, b"0" * 8), "'a' is not described as an array"),
        (header({"a": entry(0, 8)}), "does not fit into bytes 0 to 8"),
        (header({"a": entry(0, 2**49 * 8, shape=[2**49])}, b"0" * 8), "does not fit into bytes"),
        (header({"a": entry(0, 8, shape=[2**30, 2**30, 2**4])}, b"0" * 8), "does not fit into bytes"),
        (header({"a": entry(0, 16)}, b"0" * 16), "does not fit into bytes 0 to 16"),
        (header({"a": entry(0, 8), "b": entry(0, 8)}, b"0" * 8), "'b' starts at byte 0, not 8"),
        (header({"a": entry(0, 8), "b": entry(16, 24)}, b"0" * 24), "'b' starts at byte 16, not 8"),
        (header({"a": entry(0, 8)}, b"0" * 9), "the arrays take 8 bytes of 9"),
        (header({"a": entry(0, 0, shape=[0] * 100)}), "cannot be read"),
    ],
)
def test_a_lying_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MalformedError, match=message):
        read_safetensors(tmp_path / "x")


def test_a_header_is_checked_before_anything_is_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(header({"a": entry(0, 2**60, shape=[2**57])}, b"0" * 8))
    monkeypatch.setattr(np, "frombuffer", lambda *arguments: pytest.fail("read before it was checked"))
    with pytest.raises(MalformedError):
        read_safetensors(tmp_path / "x")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ('{"activations": ["relu"]}', "lipschitz is None, not a number"),
        ('{"activations": ["relu"], "lipschitz": "1"}', "lipschitz is '1', not a number"),
        ('{"activations": ["relu"], "lipschitz": true}', "lipschitz is True, not a number"),
        ('{"activations": ["relu"], "lipschitz": NaN}', "NaN is not a number of JSON"),
        ('{"activations": ["relu"], "lipschitz": 1e999}', "lipschitz is inf"),
        ('{"activations": ["relu"], "lipschitz": 1' + "0" * 999 + "}", "lipschitz is too large"),
        ('{"activations": ["relu"], "lipschitz": 1, "lipschitz": 2}', "a name is given twice"),
        ('{"activations": "relu", "lipschitz": 1}', "activations is not a list of names"),
        ('{"activations": [1], "lipschitz": 1}', "activations is not a list of names"),
        ('{"activations": [], "lipschitz": 1}', "unexpected: bias.01, multiplier.00, weight.01"),
        ('{"activations": ["relu", "relu"], "lipschitz": 1}', "missing: bias.02, multiplier.01, weight.02"),
        ('{"activations": ["relu"], "lipschitz": 1, "weights_sha256": "00"}', "is damaged: its SHA-256 is"),
        ("[]", "holds no JSON object"),
        ("[" * 200_000, "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_an_unclear_claim_is_refused(tmp_path: Path, claim: str, message: str) -> None:
    write(tmp_path, sandwich_certificate([2, 3, 2]))
    (tmp_path / "certificate.json").write_text(claim)
    with pytest.raises(MalformedError, match=message):
        read_certificate(tmp_path)


@pytest.mark.parametrize("name", ["certificate.json", "certificate.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, sandwich_certificate([2, 3, 2]))
    (tmp_path / name).unlink()
    with pytest.raises(MalformedError, match=name):
        read_certificate(tmp_path)


# The command


def test_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = loosen(sandwich_certificate([2, 3, 4, 2], gamma=5.0, activation="relu"), 1e-7)
    write(tmp_path, certificate)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out == f"proved: Lipschitz constant <= {decimal_up(certificate.lipschitz)} (L2)\nnetwork: 2-3-4-2, relu\n"

    write(tmp_path, replace(certificate, lipschitz=4.9))
    assert main([str(tmp_path)]) == 1
    assert "NOT PROVED: the matrix inequality is not strictly definite" in capsys.readouterr().err

    write(tmp_path, replace(certificate, activations=("relu", "tanh")), activations=["relu", "maxmin"])
    assert main([str(tmp_path)]) == 2
    assert "not a certificate: activation 'maxmin'" in capsys.readouterr().err


def test_a_singular_certificate_is_proved_when_loosened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, identity_certificate(3))
    assert main([str(tmp_path)]) == 1
    assert "found at the output" in capsys.readouterr().err
    assert main([str(tmp_path), "--loosen", "1e-7"]) == 0
    assert "<= 1.00000020001" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), "--loosen", "-1"])
    assert exit_.value.code == 2


@pytest.mark.parametrize("value", [1.0, 1 / 3, 1.0000000041, 2.0**-60, 123456789.123456789, math.nextafter(1, 2)])
def test_decimals_are_rounded_up(value: float) -> None:
    assert Fraction(value) <= Fraction(Decimal(decimal_up(value))) <= Fraction(value) * (1 + Fraction(1, 10**11))


def test_the_file_needs_numpy_alone(tmp_path: Path) -> None:
    path = Path(check_certificate.__file__)
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy"}

    write(tmp_path, loosen(sandwich_certificate([2, 3, 2]), 1e-7))
    (tmp_path / "check_certificate.py").write_bytes(path.read_bytes())
    run = [sys.executable, "-I", "check_certificate.py"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("proved: Lipschitz constant <= 1.0000001")
