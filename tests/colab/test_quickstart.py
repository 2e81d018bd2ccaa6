"""The notebook runs from top to bottom, and its .ipynb is made from its .py."""

import json
import pathlib

COLAB = pathlib.Path(__file__).parents[2] / "colab"


def test_ipynb_is_made_from_the_source():
    import jupytext

    source = jupytext.read(COLAB / "quickstart.py")
    made = json.loads((COLAB / "quickstart.ipynb").read_text())
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in made["cells"]]
    assert cells == [(cell.source, cell.cell_type) for cell in source.cells]
    assert not any(cell.get("outputs") for cell in made["cells"])


def test_notebook_runs(monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.setenv("TAXONOMY_MAX_STEPS", "12")
    notebook = nbformat.read(COLAB / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    for expected in ("logits (2, 64, 512)", "alibi", "step 12/12", "\ndef read_"):
        assert expected in printed
