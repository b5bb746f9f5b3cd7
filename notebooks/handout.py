"""The row of notebooks as one static page, for reading without a kernel or a network, and for printing.

    python notebooks/handout.py [FILE]       by default dist/mbf-handout.html

The executed notebooks are taken as they are: outputs, and the still picture in place of each explorer. Pictures lie inside the
page. Formulas are MathML, which browsers draw by themselves. Nothing is executed and nothing is fetched.
"""
from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter

HERE = Path(__file__).resolve().parent
STYLE = """
body { max-width: 62rem; margin: 0 auto; padding: 0 1rem; font-family: system-ui, sans-serif; line-height: 1.5; }
nav ul { columns: 2; list-style: none; padding: 0; } section.notebook { border-top: 3px solid #666; margin-top: 3rem; }
pre { overflow-x: auto; white-space: pre-wrap; font-size: .85rem; } img { max-width: 100%; height: auto; }
.input pre { background: #f5f5f5; padding: .6rem; } table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .15rem .5rem; }
section.notebook table { display: block; overflow-x: auto; }
@media print { section.notebook { break-before: page; border: 0; } .cell { break-inside: avoid-page; } }
"""


def main(file: Path) -> Path:
    names = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    exporter = HTMLExporter(template_name="basic", anchor_link_text="", exclude_input_prompt=True, exclude_output_prompt=True)
    parts, titles = [], []
    for path in names:
        notebook = nbformat.read(path, as_version=4)
        title = next(line.lstrip("# ") for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# "))
        body, _ = exporter.from_notebook_node(notebook)
        titles.append((path.stem, title))
        parts.append(f'<section class="notebook" id="{path.stem}">{offline(path.stem, body)}</section>')
    index = "".join(f'<li><a href="#{name}">{name[:2]}</a> {title}</li>' for name, title in titles)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Continual learning with one LoRA: the notebooks</title><style>{STYLE}</style></head>
<body><h1>Continual learning with one LoRA: the notebooks</h1>
<p>A static copy for reading. The explorers are still pictures here; to move them, open the notebooks.</p>
<nav><ul>{index}</ul></nav>{"".join(parts)}</body></html>
""", encoding="utf-8")
    return file


def offline(name: str, body: str) -> str:
    """A notebook's body with formulas as MathML, its headings' names its own, links between notebooks inside the page, and no script."""
    body = re.sub(r"<script.*?</script>", "", body, flags=re.DOTALL)
    body = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb(?:#[^"]*)?"', r'href="#\1"', body)
    body = re.sub(r'(<h[1-6] id=")', rf"\g<1>{name}-", body)
    parts = re.split(r"(<pre.*?</pre>|<code.*?</code>|<[^>]*>)", body, flags=re.DOTALL)          # texts at the even places
    parts[::2] = [re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+(?:\n[^$\n]+)*)\$", formula, part, flags=re.DOTALL) for part in parts[::2]]
    return "".join(parts)


def formula(found: re.Match) -> str:
    display = found[1] is not None
    return convert(html.unescape(found[1] if display else found[2]).strip(), display="block" if display else "inline")


if __name__ == "__main__":
    made = main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "dist" / "mbf-handout.html")
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")
