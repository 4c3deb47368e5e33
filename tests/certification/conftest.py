import pytest

pytest.register_assert_rewrite("certification.networks", "certification.matrix_networks")
