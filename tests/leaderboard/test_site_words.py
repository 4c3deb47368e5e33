"""What a page hands out as text: BibTeX, a LaTeX row, a model card. Text of a record is inert in each."""

import re
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leaderboard.boards import HOSTILE
from leaderboard.pages import as_run
from records.sample_runs import sample_model, sample_run

from timm_lipschitz.leaderboard._escape import one_line
from timm_lipschitz.leaderboard.entries import Entry
from timm_lipschitz.leaderboard.ranking import Board, rank
from timm_lipschitz.leaderboard.site.citation import bibtex, latex_row, latex_text
from timm_lipschitz.leaderboard.site.model_card import model_card
from timm_lipschitz.leaderboard.site.words import command, threat_model_name, training_command

NAMED = re.compile(r"\\text(backslash|asciitilde|asciicircum|less|greater|bar)\{\}")
ACTIVE = re.compile(r"(?<!\\)[&%$#_{}~^]|\\(?![&%$#_{}])|[<>|]")


def board(**model: object) -> Board:
    return rank("mnist", [Entry(as_run(sample_run(300, 50, model=sample_model(**model))), "")])


@given(st.text())
def test_no_text_is_active_in_latex(text):
    escaped = latex_text(text)
    assert not ACTIVE.search(NAMED.sub("", escaped))
    assert "\n" not in escaped


def test_latex_shows_what_was_given():
    assert latex_text(r"a_b & 50% {x} \input~^") == (
        r"a\_b \& 50\% \{x\} \textbackslash{}input\textasciitilde{}\textasciicircum{}"
    )


def test_bibtex_names_the_entry_and_the_papers_of_its_family():
    entry = bibtex(board().rows[0])
    assert entry.startswith("@misc{timm-lipschitz-mnist-sandwich-cnn-mnist,")
    assert r"title = {sandwich\_cnn.mnist on mnist" in entry
    assert "year = {2026}" in entry
    assert "2301.11526" in entry
    assert "2208.03160" in bibtex(board(family="aol_cnn").rows[0])
    assert "2104.07167" in bibtex(board(family="orthogonal_cnn_medium").rows[0])
    assert "2303.03169" in bibtex(board(family="sll_resnet").rows[0])
    assert bibtex(board(family="plain_cnn").rows[0]).count("@") == 1
    explicit = bibtex(board(family="sandwich_bcop_cnn_large").rows[0])
    assert "2301.11526" in explicit
    assert "1911.00937" in explicit
    assert "1911.00937" not in entry
    for text in (entry, explicit, bibtex(board(family="sll_resnet").rows[0])):
        assert text.count("{") == text.count("}")


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_cannot_leave_its_field(text):
    ranked = board(name=text, family=text)
    entry = bibtex(ranked.rows[0])
    title = next(line for line in entry.splitlines() if line.startswith("  title"))
    assert title.endswith("certified and attacked accuracy},")
    assert not ACTIVE.search(NAMED.sub("", title.removeprefix("  title = {").removesuffix("},")))
    row = latex_row(ranked, ranked.rows[0]).splitlines()[1]
    assert len(re.findall(r"(?<!\\)&", row)) == 8
    card = model_card(ranked.rows[0].entry.run)
    assert "<" not in card
    assert not re.search(r"(?<!\\)\[[^]]*(?<!\\)\]\(", card)


def test_the_latex_row_has_a_cell_for_each_name():
    ranked = board()
    names, row = latex_row(ranked, ranked.rows[0]).splitlines()
    results = ranked.rows[0].entry.run.record.results
    assert names.removeprefix("% ").split(" & ")[:4] == ["model", "parameters", "clean", "certified l2:36/255"]
    cells = row.removesuffix(r" \\").split(" & ")
    assert len(cells) == len(names.split(" & ")) == 9
    assert cells[2:6] == [results.clean.percent, *(figures.certified.percent for figures in results.threat_models)]
    assert cells[6] == "{} [{}, {}]".format(
        results.threat_models[0].robust.percent, *results.threat_models[0].robust.interval_percent
    )


def test_the_model_card_states_figures_with_intervals_and_limits():
    run = board().rows[0].entry.run
    card = model_card(run)
    results = run.record.results
    for name, figure in [
        ("clean", results.clean),
        *((f"certified at {at.threat_model}", at.certified) for at in results.threat_models),
        *((f"attacked at {at.threat_model}", at.robust) for at in results.threat_models),
    ]:
        low, high = figure.interval_percent
        assert f"| {name} | {figure.percent} | {low} to {high} | {figure.count:,} of {figure.total:,} |" in card
    assert "Only 50 of 300 images were attacked" in card
    assert "a" * 64 in card
    partial = as_run(sample_run(40, 20, size=50, attacks=()))
    assert "Only first 40 of 50 images of the split were evaluated" in model_card(partial)
    assert "The model was not attacked" in model_card(partial)
    bare = partial.record.model_copy(update={"certification": None, "training": None})
    assert "no certificate" in model_card(type(partial)(bare, partial.images, partial.attacks, partial.run_info))


@pytest.mark.parametrize(
    ("text", "name"), [("l2:36/255", "L2 36/255"), ("linf:8/255", "L\u221e 8/255"), ("l1:1", "L1 1.0")]
)
def test_threat_models_have_names(text, name):
    assert threat_model_name(text) == name


@pytest.mark.parametrize(
    "word", ["plain", "my  models/a", "line\nbreak", "zero\u200bwidth", "it's", "$(touch x)", "caf\u00e9", "", "\udcff"]
)
def test_a_command_is_shown_in_one_line_that_bash_reads_back(word):
    run = as_run(sample_run())
    info = run.run_info.model_copy(update={"command": ("printf", "%s\\0", word, "end")})
    shown = command(replace(run, run_info=info))
    assert one_line(shown) == shown
    read = subprocess.run(["bash", "-c", shown], capture_output=True, check=True).stdout
    assert read == word.encode(errors="surrogateescape") + b"\0end\0"


def test_the_command_that_trains_again_names_recipe_and_seed():
    training = sample_run().record.training
    again = training_command(sample_run().with_record(training=training.model_copy(update={"seed": 7})).record)
    assert again == (
        "timm-lipschitz train sandwich_cnn --data mnist --data-dir DIR --recipe sandwich_cnn.mnist --seed 7 "
        "--out runs/sandwich_cnn.mnist"
    )
    changed = training.model_copy(update={"recipe": "mnist-changed"})
    assert training_command(sample_run().with_record(training=changed).record) is None
