from cli.calls import call

from timm_lipschitz.data import dataset_names


def test_every_data_set_is_listed_with_the_place_of_its_files() -> None:
    result = call("datasets")

    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if line]
    names = [row[0] for row in rows]
    assert set(dataset_names()) <= set(names)
    assert rows[names.index("mnist")][1:3] == ["1x28x28", "10"]
    assert "tiny_imagenet: DIR/tiny-imagenet-200/ with " in result.stdout
    assert all(f"{name}: DIR/" in result.stdout for name in dataset_names())
