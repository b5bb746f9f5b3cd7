"""The mutations fit the code they break, and the script that tries them tells caught from surviving ones."""
import pytest
from mutate import families, mutations, survives, watchers

import mutate


@pytest.mark.parametrize("family", families())
def test_every_mutation_fits_its_file(family):
    assert mutations(family) and watchers(family)


def test_a_mutation_is_caught_and_an_idle_change_is_not(tmp_path, monkeypatch):
    (tmp_path / "test_methods_toy.py").write_text(
        "from mbf_utils.methods.slao import time_aware_scale\ndef test_it():\n    assert time_aware_scale(4) == 0.5\n")
    monkeypatch.setattr(mutate, "TESTS", tmp_path)
    assert survives("toy", "methods/slao.py", "return 1 / i", "return 2 / i")
    assert not survives("toy", "methods/slao.py", "return i ** -0.5", "return i ** 0.5")


def test_a_line_that_does_not_fit_is_named(tmp_path, monkeypatch):
    (tmp_path / "mutations").mkdir()
    (tmp_path / "mutations" / "toy.txt").write_text("# a remark\nmethods/slao.py :: no such text => other\n")
    monkeypatch.setattr(mutate, "TESTS", tmp_path)
    with pytest.raises(ValueError, match="toy.txt, line 2"):
        mutations("toy")
