"""Streams as values, and the field's orders: each benchmark's orders are one set of tasks."""
import pytest

from mbf_utils.errors import InputError
from mbf_utils.streams import ORDERS, Example, Stream, TaskData, find_order


def task(name):
    return TaskData(name, [Example("p" + name, ("a",))], [], [Example("q" + name, ("b", "c"), (0, 1))])


def test_a_stream_is_indexed_by_place_name_and_slice():
    stream = Stream("s", "1", (task("x"), task("y"), task("z")))
    assert len(stream) == 3 and stream.names == [t.name for t in stream] == ["x", "y", "z"]
    assert stream[1] is stream["y"] and stream[:2].names == ["x", "y"] and stream[:2].order == "1"


def test_the_fingerprint_is_of_the_rows_and_their_order():
    first = Stream("s", "1", (task("x"), task("y")))
    assert first.fingerprint() == Stream("s", "1", (task("x"), task("y"))).fingerprint()
    assert len({first.fingerprint(), Stream("s", "1", (task("y"), task("x"))).fingerprint(), first[:1].fingerprint(),
                Stream("s", "1", first.tasks, general=("text",)).fingerprint()}) == 4


def test_orders_have_the_sizes_of_the_field():
    assert {name: (list(orders), len(next(iter(orders.values())))) for name, orders in ORDERS.items()} == {
        "standard": (["1", "2", "3"], 4), "long": (["4", "5", "6"], 15), "superni": (["O1", "O2"], 15), "trace": (["1"], 8)}


@pytest.mark.parametrize("benchmark", ORDERS)
def test_orders_of_a_benchmark_are_permutations_and_differ(benchmark):
    orders = list(ORDERS[benchmark].values())
    assert all(isinstance(order, list) and len(set(order)) == len(order) and set(order) == set(orders[0]) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)


def test_ends_of_the_orders():
    assert ORDERS["standard"]["1"] == ["dbpedia", "amazon", "yahoo", "agnews"]
    assert ORDERS["standard"]["2"] == ["dbpedia", "amazon", "agnews", "yahoo"]
    assert ORDERS["standard"]["3"] == ["yahoo", "amazon", "agnews", "dbpedia"]
    ends = {"4": ("MNLI CB WiC COPA", "agnews MultiRC yahoo"), "5": ("MultiRC BoolQA WiC MNLI", "yelp amazon yahoo"),
            "6": ("yelp amazon MNLI CB", "MultiRC BoolQA WiC")}
    for key, (first, last) in ends.items():
        assert ORDERS["long"][key][:4] == first.split() and ORDERS["long"][key][-3:] == last.split()
    numbers = {key: [int(name[4:].split("_")[0]) for name in names] for key, names in ORDERS["superni"].items()}
    assert numbers["O1"] == [1572, 363, 1290, 181, 2, 1510, 639, 1729, 73, 1590, 748, 511, 591, 1687, 875]
    assert numbers["O2"] == [748, 73, 1590, 639, 1572, 1687, 591, 363, 1510, 1729, 181, 511, 2, 1290, 875]


def test_orders_are_the_names_of_the_folders(real_rows):
    on_disk = {folder.name for folder in (real_rows / "cl_benchmark").glob("*/*")}
    assert set(ORDERS["long"]["4"]) == on_disk and set(ORDERS["standard"]["1"]) < on_disk
    assert set(ORDERS["superni"]["O1"]) == {folder.name for folder in (real_rows / "superni").iterdir()}


@pytest.mark.parametrize("order, benchmark, key", [
    ("1", "standard", "1"), (1, "standard", "1"), (" 3 ", "standard", "3"), ("6", "long", "6"), ("long:5", "long", "5"),
    ("o2", "superni", "O2"), ("SuperNI:O1", "superni", "O1"), ("trace:1", "trace", "1"),
])
def test_find_order_by_key(order, benchmark, key):
    assert find_order(order) == (key, ORDERS[benchmark][key])
    assert find_order(order)[1] is not ORDERS[benchmark][key]                     # a copy: the table cannot be changed by it


@pytest.mark.parametrize("order, names", [
    (["b", "a"], ["b", "a"]), (("a",), ["a"]), ("b, a", ["b", "a"]), ("a", ["a"]),
])
def test_find_order_by_names(order, names):
    assert find_order(order) == (",".join(names), names)


@pytest.mark.parametrize("order", ["", " ", "a,,b", [], (), [""], ["a", 1], None, True, 1.5, {"a": 1}, {"a", "b"}])
def test_find_order_refuses(order):
    with pytest.raises(InputError, match="superni:O1"):
        find_order(order)
