import pytest

pytest.register_assert_rewrite("layer_contract", "layers.reference")
