"""Text of a record, made inert: in Markdown, in a spreadsheet, and as the target of a link."""

import re
import unicodedata

from timm_lipschitz.errors import InvalidInputError

_FULL_WIDTH = "\uff1d\uff0b\uff0d\uff20"  # = + - @ of East Asian input methods, which spreadsheets accept too
_FORMULA_STARTS = tuple("=+-@|%" + _FULL_WIDTH)
_MARKDOWN_ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<>\"'`|:@$~^"})
_MARKDOWN_PUNCTUATION = re.compile(r"([\\*_{}\[\]()#+!])")
_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]+)?(?:[/?#][!#$%&'()*+,./0-9:;=?@A-Z_a-z~-]*)?", re.ASCII)
_RELATIVE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)


def one_line(text: str) -> str:
    """The text without line breaks, control characters, or invisible ones that reorder what is shown."""
    visible = "".join(" " if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} else c for c in text)
    return " ".join(visible.split())


def markdown_text(text: str) -> str:
    """The text for a cell of a Markdown table: shown as it is, with no effect on the table, no HTML and no link.

    Colons and the like become entities, so that a reader which turns bare addresses into links finds none.
    """
    escaped = _MARKDOWN_PUNCTUATION.sub(r"\\\1", one_line(text).translate(_MARKDOWN_ENTITIES))
    escaped = escaped.replace("&\\#", "&#")  # the entities themselves keep their number sign
    return re.sub(r"(?i)\bwww\.", lambda match: match[0][:-1] + "&#46;", escaped)


def csv_text(text: str) -> str:
    """The text for a cell of a CSV file; what a spreadsheet would take for a formula gets a leading quote."""
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA_STARTS) else line


def safe_link(target: str) -> str:
    """Return ``target`` if it is an https address or a relative path that stays below the page.

    Raises:
        InvalidInputError: any other scheme, an absolute path, ``..``.
    """
    if _HTTPS.fullmatch(target) or _RELATIVE.fullmatch(target):
        return target
    raise InvalidInputError(f"link {target!r} is refused: give an https:// address or a relative path ('record.json')")
