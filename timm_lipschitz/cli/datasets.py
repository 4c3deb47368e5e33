"""``timm-lipschitz datasets``: what --data can name, and where the files go."""

__all__ = ["datasets"]


def datasets() -> None:
    """List the data sets by name, and where their files go.

    Examples:
      timm-lipschitz datasets
    """
    from rich.table import Table

    from ..data import dataset_info, dataset_names
    from ..data._missing import _LAYOUT
    from ._console import output

    table = Table("name", "image", "classes", "licence", box=None, pad_edge=False)
    for info in map(dataset_info, dataset_names()):
        shape = "x".join(map(str, info.image_shape)) if info.image_shape else "any"
        table.add_row(info.name, shape, str(info.num_classes or "any"), info.license)
    output().print(table)
    output().print("\nTheir files, under the folder DIR that --data-dir names:\n")
    for name in dataset_names():
        output().print(f"{name}: {_LAYOUT[name]}", markup=False)
    output().print("\nMNIST's test images come with the package and need no files.")
