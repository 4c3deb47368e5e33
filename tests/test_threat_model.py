from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.threat_model import NORMS, ThreatModel, format_eps, parse_eps

radii = st.one_of(
    st.fractions(min_value=0, max_value=10**6),
    st.integers(0, 10**4).map(lambda k: Fraction(k, 255)),
    st.decimals(0, 1000, places=6).map(Fraction),
)
threat_models = st.builds(ThreatModel, st.sampled_from(NORMS), radii)


@pytest.mark.parametrize(
    ("text", "norm", "eps", "canonical"),
    [
        ("l2:36/255", "l2", Fraction(36, 255), "l2:36/255"),
        ("linf:8/255", "linf", Fraction(8, 255), "linf:8/255"),
        ("l2:1.58", "l2", Fraction(158, 100), "l2:1.58"),
        ("l1:12", "l1", Fraction(12), "l1:12.0"),
        ("l2:1", "l2", Fraction(1), "l2:1.0"),
        ("l2:1.0", "l2", Fraction(1), "l2:1.0"),
        ("l2:0", "l2", Fraction(0), "l2:0.0"),
        ("linf:0.05", "linf", Fraction(1, 20), "linf:0.05"),
        ("l2:12/85", "l2", Fraction(36, 255), "l2:36/255"),
        ("l2:1/3", "l2", Fraction(1, 3), "l2:85/255"),
        ("l2:51/255", "l2", Fraction(1, 5), "l2:0.2"),
        ("l2:1/7", "l2", Fraction(1, 7), "l2:1/7"),
        (" L2 : 36 / 255 ", "l2", Fraction(36, 255), "l2:36/255"),
        ("l2:1e-2", "l2", Fraction(1, 100), "l2:0.01"),
        ("l2:+.5", "l2", Fraction(1, 2), "l2:0.5"),
    ],
)
def test_parse_and_canonical_text(text, norm, eps, canonical):
    threat_model = ThreatModel.parse(text)
    assert (threat_model.norm, threat_model.eps) == (norm, eps)
    assert str(threat_model) == canonical


@given(threat_models)
def test_text_round_trip(threat_model):
    assert ThreatModel.parse(str(threat_model)) == threat_model


@given(radii)
def test_eps_round_trip(eps):
    assert parse_eps(format_eps(eps)) == eps


@given(threat_models, threat_models)
def test_equal_exactly_when_the_texts_are(one, other):
    assert (one == other) == (str(one) == str(other))
    assert one != other or hash(one) == hash(other)


@given(st.text(max_size=20))
def test_any_text_parses_or_is_refused(text):
    try:
        threat_model = ThreatModel.parse(f"l2:{text}")
    except InvalidInputError:
        return
    assert threat_model.eps >= 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l2:-1", "not negative"),
        ("l2:-36/255", "not negative"),
        ("l2:nan", "finite"),
        ("l2:inf", "finite"),
        ("l2:-inf", "finite"),
        ("l2:1/0", "zero"),
        ("l2:", "not a number"),
        ("l2:abc", "not a number"),
        ("l2:1.5/255", "not a number"),
        ("l2:1_000", "not a number"),
        ("l2:٣", "not a number"),
        ("l2:1e9999", "not a number"),
        ("l2:1e999", "1e100"),
        ("l2:1e-999", "1e100"),
        ("l2:" + "9" * 1000, "characters"),
        ("l2", "NORM:EPS"),
        ("1.58", "NORM:EPS"),
        ("l3:1", "l1, l2, linf"),
        ("", "NORM:EPS"),
    ],
)
def test_refused_texts(text, message):
    with pytest.raises(InvalidInputError, match=message):
        ThreatModel.parse(text)


def test_negative_zero_is_refused_like_any_negative_text():
    with pytest.raises(InvalidInputError, match="not negative"):
        parse_eps("-0")


@pytest.mark.parametrize("eps", [Fraction(-1), 0.5, float("nan"), "1", True, None, Fraction(1, 10**101)])
def test_refused_radii(eps):
    with pytest.raises(InvalidInputError, match="eps"):
        ThreatModel("l2", eps)


def test_unknown_norm_names_the_choices():
    with pytest.raises(InvalidInputError, match=r"'L2'.*l1, l2, linf"):
        ThreatModel("L2", Fraction(1))  # pyright: ignore[reportArgumentType]


def test_orders_by_norm_then_eps_and_is_frozen():
    texts = ["linf:8/255", "l2:1.58", "l2:36/255", "l2:1.0", "l1:12"]
    ordered = [str(t) for t in sorted(map(ThreatModel.parse, texts))]
    assert ordered == ["l1:12.0", "l2:36/255", "l2:1.0", "l2:1.58", "linf:8/255"]
    with pytest.raises(AttributeError):
        ThreatModel.parse("l2:1").eps = Fraction(2)  # pyright: ignore[reportAttributeAccessIssue]


def test_integer_eps_becomes_a_fraction():
    assert ThreatModel("l2", 1) == ThreatModel.parse("l2:1")  # pyright: ignore[reportArgumentType]
    assert isinstance(ThreatModel("l2", 1).eps, Fraction)  # pyright: ignore[reportArgumentType]


def test_radius_is_the_nearest_float():
    assert ThreatModel.parse("l2:36/255").radius == 36 / 255


@pytest.mark.parametrize(("norm", "expected"), [("l1", 7.0), ("l2", 5.0), ("linf", 4.0)])
def test_distance_of_each_image(norm, expected):
    delta = torch.zeros(2, 1, 3, 3)
    delta[1, 0, 0, 0], delta[1, 0, 2, 1] = 3.0, -4.0
    distance = ThreatModel(norm, Fraction(1)).distance(delta)
    assert distance.dtype == torch.float64
    assert distance.tolist() == [0.0, expected]


@pytest.mark.parametrize("norm", NORMS)
def test_distance_is_computed_in_float64(norm):
    delta = torch.full((1, 1, 100, 100), 1 / 3)
    exact = {"l1": 1e4, "l2": 1e2, "linf": 1.0}[norm] * delta[0, 0, 0, 0].double()
    assert abs(ThreatModel(norm, Fraction(1)).distance(delta) - exact) <= 1e-12 * exact


@pytest.mark.parametrize("norm", NORMS)
def test_distance_of_no_images(norm):
    assert ThreatModel(norm, Fraction(1)).distance(torch.zeros(0, 1, 4, 4)).shape == (0,)
