"""Figures are counted from the tables, and certified <= attacked <= clean holds for every image or is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records.sample_runs import sample_attacks, sample_images, sample_run

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import AttackTable, Figure, ImageTable, summarize
from timm_lipschitz.threat_model import ThreatModel

EPS = [ThreatModel.parse("l2:1.0")]


def images_of_each_kind() -> ImageTable:
    """0 is wrong, 1 certified at 1.0, 2 and 3 correct but not certified."""
    label = np.array([5, 5, 5, 5])
    return ImageTable(
        index=np.arange(4),
        label=label,
        prediction=np.array([6, 5, 5, 5]),
        margin=np.array([-1.0, 2.0, 1.0, 0.5]),
        radius=np.array([0.0, 1.25, 0.75, 1.0]),
        correct=np.array([False, True, True, True]),
    )


def one_attack(status=("misclassified", "certified", "broken", "standing"), distance=(np.nan, np.nan, 0.8, np.nan)):
    return AttackTable.of_attack(np.arange(4), "l2:1.0", "autoattack", status, np.array(distance))


def test_every_figure_is_counted():
    results = summarize(images_of_each_kind(), one_attack(), EPS, pixels=784)
    assert results.clean == Figure.of(3, 4)
    figures = results.threat_models[0]
    assert figures.certified == Figure.of(1, 4)
    attack = figures.attacks[0]
    assert attack.clean == Figure.of(3, 4)
    assert attack.proved == Figure.of(1, 4)
    assert attack.attacked == Figure.of(2, 4)
    assert attack.broken == Figure.of(1, 4)
    assert attack.standing == Figure.of(1, 4)
    assert attack.robust == figures.robust == Figure.of(2, 4)


def test_robust_to_all_attacks_is_counted_image_by_image():
    """Each attack breaks another image: each leaves two standing or proved, both together leave one."""
    other = one_attack(("misclassified", "certified", "standing", "broken"), (np.nan, np.nan, np.nan, 1.0))
    both = AttackTable.concatenate([one_attack(), replace(other, attack=np.full(4, "pgd"))])
    figures = summarize(images_of_each_kind(), both, EPS, pixels=784).threat_models[0]
    assert [attack.robust.count for attack in figures.attacks] == [2, 2]
    assert figures.robust == Figure.of(1, 4)


def test_attacks_on_a_part_are_counted_over_that_part():
    run = sample_run(count=40, attacked=10)
    for figures in run.record.results.threat_models:
        assert figures.certified.total == 40
        assert {attack.robust.total for attack in figures.attacks} == {10}


def test_without_attacks_there_is_no_attacked_figure():
    figures = summarize(images_of_each_kind(), AttackTable.empty(), EPS, pixels=784).threat_models[0]
    assert figures.attacks == ()
    assert figures.robust is None


@pytest.mark.parametrize(
    ("status", "distance", "message"),
    [
        ({1: "broken"}, {1: 0.9}, "a certified image has another status: image 1, status 'broken'"),
        ({1: "standing"}, {}, "a certified image has another status"),
        ({1: "misclassified"}, {}, "an image classified correctly is called misclassified: image 1"),
        ({2: "misclassified"}, {2: np.nan}, "an image classified correctly is called misclassified: image 2"),
        ({0: "standing"}, {}, "a misclassified image has another status: image 0, status 'standing'"),
        ({0: "certified"}, {}, "a misclassified image has another status"),
        ({3: "certified"}, {}, "without a certificate at this eps is called certified: image 3"),
        ({}, {2: np.nan}, "a broken image without a distance within eps: image 2"),
        ({}, {2: 1.0001}, "a broken image without a distance within eps"),
        ({}, {3: 0.5}, "not broken has a distance within eps: image 3"),
        ({}, {1: 0.9}, "not broken has a distance within eps: image 1"),
        ({}, {2: 0.74}, "an adversarial example inside the certified radius: image 2"),
        ({}, {1: 1.2}, "an adversarial example inside the certified radius: image 1, status 'certified'"),
    ],
)
def test_a_broken_order_is_refused(status, distance, message):
    good = one_attack()
    statuses, distances = good.status.astype(object), good.distance.copy()
    for row, value in status.items():
        statuses[row] = value
    for row, value in distance.items():
        distances[row] = value
    summarize(images_of_each_kind(), good, EPS, pixels=784)
    with pytest.raises(RecordError, match=message):
        summarize(images_of_each_kind(), one_attack(tuple(statuses), distances), EPS, pixels=784)


def test_a_distance_beyond_eps_is_allowed_where_nothing_broke():
    figures = summarize(images_of_each_kind(), one_attack(distance=(np.nan, 1.3, 0.8, 1.2)), EPS, pixels=784)
    assert figures.threat_models[0].robust == Figure.of(2, 4)


def test_what_broke_at_one_eps_does_not_stand_at_another():
    """The point at 0.8 lies within 1.2, too: an image that stands there is counted nicer than measured."""
    larger = ThreatModel.parse("l2:1.2")

    def at_larger(status: str, distance: float) -> AttackTable:
        rows = (("misclassified", "certified", status, "standing"), (np.nan, np.nan, distance, np.nan))
        return AttackTable.of_attack(np.arange(4), "l2:1.2", "autoattack", rows[0], np.array(rows[1]))

    def figures(table: AttackTable):
        return summarize(images_of_each_kind(), AttackTable.concatenate([one_attack(), table]), [*EPS, larger], 784)

    assert figures(at_larger("broken", 1.1)).at("l2:1.2").robust == Figure.of(2, 4)
    with pytest.raises(
        RecordError, match=r"autoattack at l2:1\.2: an image stands, though .* at another threat model: image 2"
    ):
        figures(at_larger("standing", np.nan))
    # Another attack, and another norm, may leave it standing.
    other = at_larger("standing", np.nan)
    figures(replace(other, attack=np.full(4, "pgd")))


def test_a_row_beyond_its_own_eps_counts_at_larger_ones():
    images = images_of_each_kind()
    beyond = AttackTable.of_attack([2], "l2:1.0", "pgd", ["standing"], np.array([1.1]))
    stands = AttackTable.of_attack([2], "l2:1.2", "pgd", ["standing"], np.array([np.nan]))
    models = [*EPS, ThreatModel.parse("l2:1.2")]
    with pytest.raises(RecordError, match="though the attack has an example within this eps"):
        summarize(images, AttackTable.concatenate([beyond, stands]), models, pixels=784)


def test_certified_balls_of_two_classes_do_not_overlap():
    """Images of 4 inputs in [0, 1] are at most 2 apart: 1.25 and 0.75 fit, and no more."""
    images = replace(images_of_each_kind(), label=np.array([5, 5, 6, 5]), prediction=np.array([6, 5, 6, 5]))
    summarize(images, AttackTable.empty(), EPS, pixels=4)
    wider = replace(images, radius=np.array([0.0, 1.26, 0.75, 1.0]))
    with pytest.raises(RecordError, match=r"radii 1\.26 of image 1 and 0\.75 of image 2, of another class, cannot"):
        summarize(wider, AttackTable.empty(), EPS, pixels=4)
    wide = replace(images_of_each_kind(), radius=np.array([0, 9.0, 9.0, 9.0]))
    with pytest.raises(RecordError, match=r"radii 9 of image 1 and 0 of image 0, of another class"):
        summarize(wide, AttackTable.empty(), EPS, pixels=4)  # image 0, itself a point of another class, is within 2
    alone = replace(wide, prediction=np.full(4, 5), label=np.array([6, 5, 5, 5]))
    summarize(alone, AttackTable.empty(), EPS, pixels=4)


def test_an_example_in_one_norm_breaks_in_another():
    """An L-infinity perturbation of 0.01 over 784 pixels is at most 0.28 long in L2, and one of 0.05 up to 1.4."""
    linf, l2 = ThreatModel.parse("linf:8/255"), ThreatModel.parse("l2:1.0")

    def run(distance: float, status: str) -> AttackTable:
        rows = [("linf:8/255", "broken", distance), ("l2:1.0", status, np.nan)]
        if status == "broken":
            rows[1] = ("l2:1.0", status, 0.9)
        return AttackTable.concatenate(
            [AttackTable.of_attack([3], at, "pgd", [state], np.array([d])) for at, state, d in rows]
        )

    images = replace(images_of_each_kind(), radius=np.array([0.0, 1.25, 0.75, 0.2]))
    summarize(images, run(0.01, "broken"), [linf, l2], 784)
    with pytest.raises(RecordError, match=r"pgd at l2:1\.0: an image stands, though .*: image 3"):
        summarize(images, run(0.01, "standing"), [linf, l2], 784)
    far = run(8 / 255, "standing")  # at most 0.88
    with pytest.raises(RecordError, match="an image stands"):
        summarize(images, far, [linf, l2], 784)
    summarize(images, far, [linf, l2], 1100)  # up to 1.04 there


def test_the_inside_of_a_radius_is_measured_in_l2_for_l_infinity_attacks():
    """Radius 0.75 in L2 over 784 pixels is 0.0268 in L-infinity."""
    eps = ThreatModel.parse("linf:0.1")

    def table(distance: float) -> AttackTable:
        return AttackTable.of_attack(np.array([2]), "linf:0.1", "pgd", ["broken"], np.array([distance]))

    assert summarize(images_of_each_kind(), table(0.0269), [eps], pixels=784).threat_models[0].robust == Figure.of(0, 1)
    with pytest.raises(RecordError, match="inside the certified radius"):
        summarize(images_of_each_kind(), table(0.0267), [eps], pixels=784)


def test_attacks_on_unknown_images_or_threat_models_are_refused():
    unknown = AttackTable.of_attack(np.array([9]), "l2:1.0", "autoattack", ["standing"], np.array([np.nan]))
    with pytest.raises(RecordError, match="missing from the images table: image 9"):
        summarize(images_of_each_kind(), unknown, EPS, pixels=784)
    with pytest.raises(RecordError, match=r"threat model 'l2:1\.0' is not one of the run's: l2:1\.58"):
        summarize(images_of_each_kind(), one_attack(), [ThreatModel.parse("l2:1.58")], pixels=784)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.floats(0, 1))
def test_figures_are_ordered_and_match_a_slow_count(seed, count, share):
    attacked = max(1, int(share * count))
    images = sample_images(count, seed)
    table = AttackTable.concatenate(
        [sample_attacks(images, "l2:1.0", attack, attacked, seed) for attack in ("autoattack", "pgd")]
    )
    figures = summarize(images, table, EPS, pixels=784).threat_models[0]
    robust = set(range(attacked))
    for row in range(len(table)):
        if table.status[row] in ("broken", "misclassified"):
            robust.discard(int(table.index[row]))
    assert figures.robust == Figure.of(len(robust), attacked)
    certified = sum(bool(c) and float(r) > 1 for c, r in zip(images.correct, images.radius, strict=True))
    assert figures.certified == Figure.of(certified, count)
    for attack in figures.attacks:
        assert attack.proved.count <= figures.robust.count <= attack.robust.count <= attack.clean.count
