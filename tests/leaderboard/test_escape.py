import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.leaderboard._escape import csv_text, markdown_text, one_line, safe_link


@pytest.mark.parametrize(
    "target",
    ["https://example.org", "https://example.org:8080/a?b=c#d", "record.json", "0/record.json", "a.mnist.json"],
)
def test_https_and_relative_links_pass(target):
    assert safe_link(target) == target


@pytest.mark.parametrize(
    "target",
    [
        *("javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)"),
        *(
            "http://example.org",
            "//example.org/x",
            "/etc/passwd",
            "../record.json",
            "a/../b",
            "data:text/html,x",
            "file:x",
        ),
        *("https://user@example.org", 'https://example.org/"><script>', "https://example.org/\n", "", "a b", ".hidden"),
        *("vbscript:x", "https:javascript", "https://", "a\\b", "x\0"),
    ],
)
def test_other_links_are_refused(target):
    with pytest.raises(InvalidInputError, match="refused"):
        safe_link(target)


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1", " =1", "|cmd", "\uff1dcmd", "\u200b=1"]
)
def test_formulas_lose_their_meaning(text):
    assert csv_text(text).startswith("'")


def test_ordinary_text_is_not_changed():
    assert csv_text("sandwich_cnn.mnist") == "sandwich_cnn.mnist"
    assert markdown_text("sandwich-cnn.mnist") == "sandwich-cnn.mnist"


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_escaped_markdown_has_nothing_active(text):
    escaped = markdown_text(text)
    assert not set(escaped) & set("<>|`\"'\n\r\t@:~$")
    assert "www." not in escaped.lower()
    for position, character in enumerate(escaped):
        if character in "*_{}[]()+!":
            assert escaped[position - 1] == "\\"
        elif character == "#":
            assert escaped[position - 1] in "\\&"
        elif character == "&":
            assert escaped[position + 1] == "#"


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_one_line_is_one_line_without_hidden_characters(text):
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line


def test_text_direction_cannot_be_reversed():
    assert one_line("evil\u202egnp.exe") == "evil gnp.exe"
