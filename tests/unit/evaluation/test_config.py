"""Test that conflicting settings of the evaluation are refused."""

from __future__ import annotations

import pytest

from gear.core.errors import InputError
from gear.params import from_values


def test_a_reference_without_weights_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"evaluate: reference holds Inception's statistics: "
        r"name the weights in inception\.path",
    ):
        from_values({"evaluate": {"reference": {"path": "x.npz"}}}, "params.yaml")
