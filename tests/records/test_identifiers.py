import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.errors import RecordError
from timm_lipschitz.records import make_record_id, safe_record_id


@pytest.mark.parametrize(
    "text", [*("sandwich_cnn.mnist", "sandwich-cnn", "a", "2c2f.mnist-v2"), *("console", "my.con", "a" * 100)]
)
def test_ordinary_ids_are_safe(text):
    assert safe_record_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "../x", "a/../../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "..", ".", ".hidden", "a..b", "a."),
        *("x\0y", "a\n", "a" * 101, "Sandwich", "a b", "ä", "x.run", "x.images", "x.attacks", "<script>", "-rf"),
        *("con", "nul.mnist", "com1"),
        *(3, None),
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(RecordError, match="record id"):
        safe_record_id(text)


def test_made_ids_are_readable():
    assert make_record_id("local-dir:runs/My model") == "local-dir-runs-my-model"
    assert make_record_id("sandwich_cnn.mnist") == "sandwich_cnn.mnist"
    assert make_record_id("../../etc/passwd") == "etc-passwd"
    assert make_record_id("model.run") == "model-run"
    assert make_record_id("AUX.mnist") == "model-aux.mnist"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_made_ids_are_safe_or_refused(text):
    try:
        made = make_record_id(text)
    except RecordError:
        return
    assert safe_record_id(made) == made
    assert make_record_id(made) == made


def test_text_without_usable_characters_is_refused():
    with pytest.raises(RecordError):
        make_record_id("///")
