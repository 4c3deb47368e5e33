"""Pictures of adversarial examples on a model's page."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from leaderboard.pages import Page, as_run
from PIL import Image
from records.sample_runs import sample_run

from timm_lipschitz.leaderboard import render_run_page
from timm_lipschitz.leaderboard.site.pictures import pictures, png
from timm_lipschitz.records import Examples


@pytest.fixture(scope="module")
def run():
    plain = as_run(sample_run(300, 50))
    index = plain.images.index[:50][plain.images.correct[:50]][:3]
    generator = np.random.default_rng(0)
    image = generator.random((3, 1, 28, 28), dtype=np.float32)
    point = np.clip(image + 0.02 * generator.standard_normal(image.shape, dtype=np.float32), 0, 1)
    prediction = (plain.images.label[index] + 1) % 10
    return replace(plain, examples=Examples(index, image, point, prediction))


def pixels(address: str) -> np.ndarray:
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content))).astype(np.float64) / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(channels):
    image = np.random.default_rng(0).random((channels, 5, 7))
    shown = pixels(png(image))
    expected = image[0] if channels == 1 else image.transpose(1, 2, 0)
    assert shown.shape == expected.shape
    np.testing.assert_allclose(shown, expected, atol=0.5 / 255 + 1e-12)


def test_the_difference_is_magnified_around_grey_by_what_is_said(run):
    for number, picture in enumerate(pictures(run, None)):
        difference = run.examples.adversarial[number, 0] - run.examples.image[number, 0]
        factor = float(picture.factor)
        assert factor > 5
        assert np.abs(factor * difference).max() <= 0.5  # nothing is clipped
        np.testing.assert_allclose(pixels(picture.difference), 0.5 + factor * difference, atol=0.5 / 255 + 1e-6)


def test_the_page_shows_them_with_words(run):
    page = Page(render_run_page(run))
    shown = page.all("img")
    assert len(shown) == 9
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown)
    index = run.examples.index[0]
    label, other = run.images.label[index], run.examples.prediction[0]
    assert shown[0]["alt"] == f"Image {index}, {label}"
    assert shown[1]["alt"] == f"Its adversarial example, taken for {other}"
    assert f"{label} → {other} at " in page.words


def test_classes_have_their_names(run):
    names = tuple("abcdefghij")
    first = pictures(run, names)[0]
    assert first.label == names[run.images.label[run.examples.index[0]]]
    assert pictures(run, names[:1])[0].prediction in {"a", *map(str, range(10))}


def test_without_examples_there_is_no_such_section(run):
    assert "Closest adversarial examples" not in Page(render_run_page(replace(run, examples=None))).words


def test_pictures_of_large_images_do_not_weigh_a_page_down(run):
    """Noise, which no format makes smaller."""
    generator = np.random.default_rng(1)
    image = generator.random((6, 3, 224, 224), dtype=np.float32)
    index = run.images.index[:50][run.images.correct[:50]][:6]
    point = np.clip(image + 0.02 * generator.standard_normal(image.shape, dtype=np.float32), 0, 1)
    prediction = (run.images.label[index] + 1) % 10
    large = replace(run, examples=Examples(index, image, point, prediction))
    shown = pictures(large, None)
    assert 1 <= len(shown) < 6
    assert len(pictures(run, None)) == 3
    assert len(render_run_page(large).encode()) < 2_000_000
