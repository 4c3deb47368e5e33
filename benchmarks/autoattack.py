"""How much of their clean accuracy do models keep under AutoAttack, and how much of it is proved?

Compares MODEL... on the same images, at the same threat models: clean accuracy, certified accuracy, and robust
accuracy under the standard AutoAttack (images proved at eps count as robust and are not attacked). Every model and seed
is one run of ``timm_lipschitz.evaluate`` with a folder and a record of its own under ``--out``; ``comparison.json``
there holds medians and spread over the seeds.

    python benchmarks/autoattack.py sandwich_mlp.mnist sandwich_cnn.mnist --threat-model l2:1.0 --limit 1000
"""

import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark on command-line ``arguments`` (this process's by default); returns the exit code."""
    from benchmarks.suite import Suite, run

    question = "How much of their clean accuracy do models keep under AutoAttack, and how much of it is proved?"
    return run(Suite("benchmarks/autoattack.py", question, lambda norms: ("autoattack",)), arguments)


if __name__ == "__main__":
    # The repository in place of this folder: in here `autoattack` would be this file, not AutoAttack.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(main())
