"""The paper's numbers: of known methods, one value each, and read as they stand."""
import pandas as pd
import pytest

from mbf_utils.errors import InputError
from mbf_utils.methods import METHODS
from mbf_utils.published import FILE, published, replicated

ROWS = pd.read_csv(FILE)


def test_every_number_has_a_known_method_a_source_and_how_sure_it_is_and_stands_once():
    assert set(ROWS["method"]) | set(replicated()["method"]) <= set(METHODS) and ROWS.notna().all(axis=None)
    assert not ROWS.duplicated(["table", "model", "benchmark", "orders", "method", "metric"]).any()
    assert set(ROWS["sure"]) <= {"high", "medium", "low"}


def test_a_table_is_read_as_it_stands_and_slao_s_row_is_the_same_in_all():
    main = published()
    assert main.loc["slao"].tolist() == [80.4, 74.8, 37.2] and list(main) == ["standard", "long", "superni"] and len(main) == 12
    for table in ("start", "merging"):
        assert published(table).loc["slao"].tolist() == main.loc["slao"].tolist()
    with pytest.raises(InputError, match="found 'mian'"):
        published("mian")
