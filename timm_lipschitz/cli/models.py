"""``timm-lipschitz models``: what can be created by name."""

from typing import Annotated

import typer

__all__ = ["models"]


def models(
    pattern: Annotated[str, typer.Argument(help="Names to list, with * and ?.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only models with trained weights.")] = False,
) -> None:
    """List the models of this package by their timm names.

    Examples:
      timm-lipschitz models
      timm-lipschitz models "sandwich_cnn*" --pretrained
    """
    import timm
    from rich.table import Table

    from .. import models as families
    from ._console import output

    table = Table("model", "input", "classes", "weights", box=None, pad_edge=False)
    for name in timm.list_models(pattern, pretrained=pretrained, include_tags=True):
        if timm.model_entrypoint(name).__module__.startswith(f"{families.__name__}."):
            input_size = "x".join(map(str, timm.get_pretrained_cfg_value(name, "input_size") or ()))
            num_classes = str(timm.get_pretrained_cfg_value(name, "num_classes"))
            table.add_row(name, input_size, num_classes, "yes" if timm.is_model_pretrained(name) else "no")
    output().print(table)
