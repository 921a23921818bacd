"""Running a notebook, and what is stored of it: outputs without noise, and what is folded until it is opened.

An author folds with a tag. `hide-output` folds the output of a prediction, so that the question comes first;
`hide-input` folds code that a reader need not read: set-up and drawing. The site reads the tags themselves;
JupyterLab and Colab each read metadata of their own, which `fold` writes.
"""

import nbformat

from notebooks.files import ROOT, is_setup, read_notebook, tags, write_notebook

FOLDED = {
    "hide-output": {"collapsed": True, "jupyter": {"outputs_hidden": True}},  # Colab, JupyterLab
    "hide-input": {"cellView": "form", "jupyter": {"source_hidden": True}},
}
# Metadata of a cell that an author wrote and a run must not lose.
KEPT = ("tags", "slideshow", "nbgrader", "editable", "deletable")


def fold(notebook):
    """Give every cell the metadata that its tags ask for, and no other but KEPT."""
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(folded_metadata(cell))
    return notebook


def folded_metadata(cell):
    """What the metadata of a cell has to be, by its tags; a set-up cell is always folded."""
    metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
    if is_setup(cell) and "hide-input" not in tags(cell):
        metadata["tags"] = [*tags(cell), "hide-input"]
    for tag in metadata.get("tags", []):
        for key, value in FOLDED.get(tag, {}).items():
            metadata[key] = {**metadata.get(key, {}), **value} if isinstance(value, dict) else value
    return metadata


def clean_notebook(notebook):
    """Drop what would differ from run to run or hide a fault: progress bars, widget state, run times."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _join_streams(cell)
            cell.outputs = [
                output for output in cell.outputs if not (_is_progress(output) or _is_widget(output))
            ]
    return fold(notebook)


def _join_streams(cell):
    """A text printed piece by piece is stored as one output."""
    joined = []
    for output in cell.outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            joined.append(output)
    cell.outputs = joined


def _is_progress(output):
    """tqdm writes to stderr with carriage returns, and a line break when it closes.

    A real warning has text.
    """
    return (
        output.output_type == "stream"
        and output.name == "stderr"
        and ("\r" in output.text or not output.text.strip())
    )


def _is_widget(output):
    """A widget needs a live kernel; a stored one would be an empty place in the page."""
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def execute(path, root=ROOT):
    """Run one notebook in a fresh kernel, from its own folder, and store its outputs."""
    from nbclient import NotebookClient

    notebook = read_notebook(root / path)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str((root / path).parent)}},
    )
    client.execute()
    write_notebook(clean_notebook(notebook), root / path)
