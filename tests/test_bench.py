"""Benchmarks run at toy size; their fast rivals are equal to the slow ones. No time is asserted."""
import csv

import pytest
import torch
from mbf_utils.bench import gpu
from mbf_utils.bench.shape import TOY
from mbf_utils.bench.table import Table, at_most, in_turns, quartiles, ratio, run_items
from mbf_utils.subspaces import orthonormal_rows


def read(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_gpu_items_all_run_at_toy_size(tmp_path):
    rows = read(gpu.bench(tmp_path, "cpu", TOY, total=120))
    assert not [row for row in rows if "failed" in row["case"] or "left out" in row["case"]]
    assert {row["item"] for row in rows} == {"versions", "ceilings", "model", "throughput", "boundary", "memory", "start", "merge", "scoring", "small world",
                                             "abreast"}
    losses = [row for row in rows if row["quantity"] == "largest relative difference"]
    assert losses and all(float(row["value"]) == 0 for row in losses)      # the same device on both sides: the same bytes
