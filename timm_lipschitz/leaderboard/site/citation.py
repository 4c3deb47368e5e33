"""How to cite an entry: BibTeX entries and the row of a LaTeX table, with the text of a record made inert."""

import re

from timm_lipschitz.leaderboard._cells import entry_name
from timm_lipschitz.leaderboard._escape import one_line
from timm_lipschitz.leaderboard.ranking import Board, Row

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}

_SANDWICH = """@inproceedings{wang2023direct,
  title = {Direct Parameterization of {L}ipschitz-Bounded Deep Networks},
  author = {Wang, Ruigang and Manchester, Ian R.},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2023},
  eprint = {2301.11526},
  archiveprefix = {arXiv}
}"""
_CAYLEY = """@inproceedings{trockman2021orthogonalizing,
  title = {Orthogonalizing Convolutional Layers with the {C}ayley Transform},
  author = {Trockman, Asher and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2021},
  eprint = {2104.07167},
  archiveprefix = {arXiv}
}"""
_AOL = """@inproceedings{prach2022almost,
  title = {Almost-Orthogonal Layers for Efficient General-Purpose {L}ipschitz Networks},
  author = {Prach, Bernd and Lampert, Christoph H.},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year = {2022},
  eprint = {2208.03160},
  archiveprefix = {arXiv}
}"""
_SLL = """@inproceedings{araujo2023unified,
  title = {A Unified Algebraic Perspective on {L}ipschitz Neural Networks},
  author = {Araujo, Alexandre and Havens, Aaron and Delattre, Blaise and Allauzen, Alexandre and Hu, Bin},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year = {2023},
  eprint = {2303.03169},
  archiveprefix = {arXiv}
}"""
_BCOP = """@inproceedings{li2019preventing,
  title = {Preventing Gradient Attenuation in {L}ipschitz Constrained Convolutional Networks},
  author = {Li, Qiyang and Haque, Saminul and Anil, Cem and Lucas, James and Grosse, Roger B.
            and Jacobsen, J{\\"o}rn-Henrik},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year = {2019},
  eprint = {1911.00937},
  archiveprefix = {arXiv}
}"""
_METHODS = {
    "sandwich": (_SANDWICH,),
    "sandwich_bcop": (_SANDWICH, _BCOP),
    "orthogonal": (_CAYLEY,),
    "aol": (_AOL,),
    "sll": (_SLL,),
}


def latex_text(text: str) -> str:
    """The text for LaTeX: shown as it is, whatever it holds."""
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def bibtex(row: Row) -> str:
    """The entry itself, and the papers behind the model's family where it is one of those compared here."""
    record, info = row.entry.run.record, row.entry.run.run_info
    year, month, day = info.finished[:10].split("-")
    key = re.sub(r"[^a-z0-9]+", "-", f"timm-lipschitz-{record.dataset.name}-{record.id}")
    entry = f"""@misc{{{key},
  title = {{{latex_text(entry_name(record))} on {latex_text(record.dataset.name)}: certified and attacked accuracy}},
  howpublished = {{Entry of the timm\\_lipschitz leaderboard}},
  note = {{weights SHA-256 {record.model.weights_sha256}, measured on {year}-{month}-{day}}},
  year = {{{year}}}
}}"""
    parts = record.model.family.split("_")
    papers = _METHODS.get("_".join(parts[:2])) or _METHODS.get(parts[0], ())
    return "\n\n".join([entry, *papers])


def latex_row(board: Board, row: Row) -> str:
    """A comment that names the columns, and the row: percentages rounded down, ``--`` where there is no figure."""
    record = row.entry.run.record
    names = ["model", "parameters", "clean"]
    cells = [latex_text(entry_name(record)), f"{record.model.parameters:,}", record.results.clean.percent]
    for model in board.certified_columns:
        figure = row.certified.get(model)
        names.append(f"certified {model}")
        cells.append(figure.percent if figure else "--")
    for model in board.attacked_columns:
        figures = row.attacked.get(model)
        names.append(f"attacked {model} (of {record.attacked.count if record.attacked else 0} images)")
        cells.append(
            f"{figures.robust.percent} [{', '.join(figures.robust.interval_percent)}]"
            if figures and figures.robust
            else "--"
        )
    return f"% {' & '.join(names)}\n{' & '.join(cells)} \\\\"
