"""Makes 01-one-factor.csv anew: the training cell of notebook 01 (B alone, A alone, both) with three seeds and sizes. Two CPU-minutes.

    python figures/one_factor.py
"""
from __future__ import annotations

from pathlib import Path

import jupytext
import matplotlib

matplotlib.use("agg")
HERE = Path(__file__).resolve().parent
ONE, ALL = "seeds, sizes = (0,), (0.5, 2.0)", "seeds, sizes = (0, 1, 2), (0.5, 1.0, 2.0)"


def main() -> None:
    import pandas as pd

    import mbf_utils as mbf
    cells = [cell.source for cell in jupytext.read(HERE.parent / "notebooks" / "src" / "01_lora_pairs.py").cells if cell.cell_type == "code"]
    rule, = (cell for cell in cells if "class OneFactor" in cell)
    training, = (cell for cell in cells if ONE in cell)
    names = {"__name__": "__main__", "mbf": mbf, "pd": pd, "stream": mbf.load_stream("world-5")}
    exec("import torch\n" + rule, names)                            # noqa: S102  (the repository's own cells)
    exec(training.replace(ONE, ALL), names)                         # noqa: S102
    names["table"].to_csv(HERE / "01-one-factor.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
