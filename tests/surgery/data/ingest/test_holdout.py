from __future__ import annotations

import pytest

from surgery.data.ingest.survey import hold_out
from surgery.errors import DatasetInvalid


def test_the_held_out_rows_repeat_no_text_of_train() -> None:
    repeated = bytes([1] * 80 + [0] * 20)
    mask = hold_out(repeated, [n % 2 for n in range(100)], seed=3)
    assert sum(mask) == 10
    assert not any(mask[:80])
    assert sum(hold_out(bytes([1] * 50), None, seed=0)) == 5


def test_the_last_row_of_a_class_stays_in_train() -> None:
    strata = [0] * 30 + [1]
    for seed in range(20):
        mask = hold_out(bytes(31), strata, seed)
        assert sum(mask) == 3
        assert mask[30] == 0


@pytest.mark.parametrize("rows", [20, 101, 1000])
def test_each_class_gives_its_share(rows: int) -> None:
    strata = [n % 4 == 0 for n in range(rows)]
    mask = hold_out(bytes(rows), strata, seed=5)
    assert sum(mask) == round(rows / 10)
    rare = sum(side for side, code in zip(mask, strata, strict=True) if code)
    assert abs(rare - sum(strata) / 10) < 1
    assert mask == hold_out(bytes(rows), strata, seed=5)


def test_two_rows_cannot_be_split() -> None:
    with pytest.raises(DatasetInvalid, match="send a validation file"):
        hold_out(bytes(2), None, seed=0)
