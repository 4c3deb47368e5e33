import timm
from typer.testing import CliRunner

from timm_lipschitz.cli import app


def rows(*arguments: str) -> dict[str, list[str]]:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == 0, result.output
    return {name: values for name, *values in map(str.split, result.stdout.splitlines()[1:])}


def test_every_model_of_the_package_and_no_other_is_listed() -> None:
    listed = rows()
    assert set(timm.list_models("sandwich*", include_tags=True)) <= set(listed)
    assert "resnet18.a1_in1k" not in listed
    assert listed["sandwich_mlp.mnist"][:2] == ["1x28x28", "10"]


def test_a_pattern_and_pretrained_narrow_the_list() -> None:
    assert {name.partition(".")[0] for name in rows("sandwich_m*")} == {"sandwich_mlp"}
    assert set(rows("--pretrained")) == {name for name, (_, _, weights) in rows().items() if weights == "yes"}
