"""Which attacks of torchattacks break what, beside what is proved?

Compares MODEL... on the same images, at the same threat models: clean accuracy, certified accuracy, and robust
accuracy under each attack of torchattacks that knows the norms of the threat models, and under all of them together.
Every model and seed is one run of ``timm_lipschitz.evaluate`` with a folder and a record of its own under ``--out``;
``comparison.json`` there holds medians and spread over the seeds.

    python benchmarks/torchattacks_suite.py sandwich_mlp.mnist --threat-model l2:1.0 --limit 1000 --seed 0 --seed 1
"""

import sys
from pathlib import Path


def attacks_for(norms: frozenset[str]) -> tuple[str, ...]:
    """Names of the attacks of torchattacks that are offered under every one of ``norms``."""
    from timm_lipschitz.attacks import CATALOGUE

    others = ("autoattack", "bisection")  # of pyautoattack, and of this package
    return tuple(name for name, attack in CATALOGUE.items() if name not in others and norms <= frozenset(attack.norms))


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    from benchmarks.suite import Suite, run

    question = "Which attacks of torchattacks break what, beside what is proved?"
    return run(Suite("benchmarks/torchattacks_suite.py", question, attacks_for), arguments)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that `benchmarks` can be imported
    sys.exit(main())
