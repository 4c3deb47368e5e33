"""``python -m timm_lipschitz``: the command line, also for ``torchrun -m timm_lipschitz``."""

from .cli import main

if __name__ == "__main__":
    main()
