"""Notebook -> modules. nbdev gathers the exported cells; what only the module needs is written here.

A reader of a notebook sees each import once, where it is first needed. A module must import all that it
uses: which names those are is found out from its code, and the imports from any cell of the notebook,
exported or not, or from the chapter's other modules. `#| doc ...` in the first exported cell of a module is
its docstring; `#| offers a, b` in any of them names what it imports only so that others can import it there.
"""

import ast
import builtins
import functools
import re
import symtable
import sys
import textwrap

import nbformat

from notebooks.files import FOLDERS, HAND_WRITTEN, ROOT, notebook_paths, python_of, read_notebook

DIRECTIVE = re.compile(r"^#\|[ \t]*(\w+)[ \t]*(.*)$", flags=re.M)


def directives(cell):
    """{name: value} of the lines `#| name value` of a code cell."""
    return dict(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else {}


def exported_cells(notebook):
    """{module: [cells]} of a notebook, in order."""
    default = next(
        (found["default_exp"] for found in map(directives, notebook.cells) if "default_exp" in found), ""
    )
    modules = {}
    for cell in notebook.cells:
        if "export" in directives(cell):
            name = directives(cell)["export"].strip() or default
            if not name:
                raise NameError(f"{cell.source[:40]!r} names no module, and there is no #| default_exp")
            modules.setdefault(name, []).append(cell)
    return modules


# ---------------------------------------------------------------- what a module has to import


def names_defined(source):
    """The names that Python source binds at its top level."""
    table = symtable.symtable(source, "module", "exec")
    return {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
    }


def names_written(source):
    """The names that Python source defines at its top level, without those that it imports."""
    table = symtable.symtable(source, "module", "exec")
    return {s.get_name() for s in table.get_symbols() if s.is_assigned() and not s.is_imported()}


def names_needed(source):
    """The names that Python source uses and does not bind at its top level, built-in ones excepted."""
    needed, tables = set(), [symtable.symtable(source, "module", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        needed |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return needed - names_defined(source) - set(dir(builtins)) - {"__file__", "__name__"}


def imports_of(notebook):
    """{name: [statements]} of every import at the top level of a notebook's cells, each for one name."""
    found = {}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        for node in ast.parse(python_of(cell)).body:
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else []:
                name = (alias.asname or alias.name).split(".")[0]
                single = ast.Import([alias])
                if isinstance(node, ast.ImportFrom):
                    single = ast.ImportFrom(node.module, [alias], node.level)
                found.setdefault(name, []).append(single)
    return found


def chosen(statements, source):
    """Of several imports of one name those that are needed: `import a.b` for an a.b, or the first."""
    dotted = [
        s
        for s in statements
        if isinstance(s, ast.Import) and "." in s.names[0].name and not s.names[0].asname
    ]
    used = [s for s in dotted if re.search(rf"\b{re.escape(s.names[0].name)}\b", source)]
    return used or [s for s in statements if s not in dotted][:1] or statements[:1]


def import_lines(source, siblings, imports, folder, offers=()):
    """The import block of a module: what its source needs, and what it offers.

    siblings: {name: module} of what the notebook's other modules define; imports: see imports_of; folder: the
    chapter's, where all that is a module of its own becomes a relative import. NameError for a name that
    comes from nowhere.
    """
    plain, by_module = set(), {}
    for name in sorted(names_needed(source) | set(offers)):
        if name in siblings:
            by_module.setdefault("." + siblings[name], set()).add(name)
            continue
        if name not in imports:
            raise NameError(f"uses {name}, which no cell of the notebook exports or imports")
        for statement in chosen(imports[name], source):
            alias = statement.names[0]
            shown = alias.name + (f" as {alias.asname}" if alias.asname else "")
            if isinstance(statement, ast.Import):
                plain.add(f"import {shown}")
            else:
                by_module.setdefault(relative(statement.module, folder), set()).add(shown)
    plain |= {from_import(module, sorted(names, key=import_order)) for module, names in by_module.items()}
    course = {folder.split("/")[0] for folder in FOLDERS}
    groups = [[], [], [], []]  # Python's, others', the course's, the folder's own
    for line in sorted(plain, key=lambda line: (line.startswith("from"), line.split()[1].lower())):
        module = line.split()[1]
        package = module.split(".")[0]  # empty for a module of the same folder
        elsewhere = 2 if package in course else package not in sys.stdlib_module_names
        groups[elsewhere if package else 3].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def import_order(name):
    """Constants, then classes, then functions, as ruff sorts them."""
    return (not name.isupper(), not name[:1].isupper(), name)


def from_import(module, names):
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 110:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def relative(module, folder):
    """previous_chapters, a module of the chapter's folder and ch0N_folder.module -> with a leading dot."""
    for own in (f"appendix.{folder.name}.", f"{folder.name}."):
        module = module.removeprefix(own)
    local = (
        module == "previous_chapters" or (folder / f"{module}.py").exists() or module in modules_of(folder)
    )
    return f".{module}" if local else module


def modules_of(folder):
    """The names of the modules that the notebooks of a chapter make."""
    texts = (path.read_text(encoding="utf-8") for path in folder.glob("*.ipynb"))
    return {name for text in texts for name in modules_in(text)}


@functools.cache
def modules_in(text):
    """The names of the modules that a notebook makes, which is given as its file's text."""
    return tuple(exported_cells(nbformat.reads(text, as_version=4)))


# ---------------------------------------------------------------- writing


def export_notebook(path, folder):
    """Write the modules of one notebook into `folder`; returns their paths."""
    from nbdev.export import nb_export
    from nbdev.maker import ModuleMaker

    class OneModule(ModuleMaker):
        """nbdev appends to the file of a notebook's second module; here each is written anew."""

        def __init__(self, *args, is_new=True, **kwargs):
            super().__init__(*args, is_new=True, **kwargs)
            self.hdr = f"# %% {path.name}"
            self.dest2nb = path.name

    notebook = read_notebook(path)
    modules = exported_cells(notebook)
    if not modules:
        return []
    nb_export(str(path), lib_path=str(folder), mod_maker=OneModule)
    sources = {name: "\n\n".join(cell.source for cell in cells) for name, cells in modules.items()}
    defined = {name: module for module, source in sources.items() for name in names_written(source)}
    for name, cells in modules.items():
        module = folder / f"{name}.py"
        siblings = {key: value for key, value in defined.items() if value != name}
        try:
            offers = re.findall(r"\w+", " ".join(found.get("offers", "") for found in map(directives, cells)))
            imports = import_lines(sources[name], siblings, imports_of(notebook), path.parent, offers)
        except NameError as error:
            raise NameError(f"{module.name} {error}") from None
        doc = _directive(cells, "doc")
        text = assembled(module.read_text(encoding="utf-8"), path.name, doc, imports, offers)
        module.write_text(text, encoding="utf-8")
    return [folder / f"{name}.py" for name in modules]


def _directive(cells, name):
    """The value of the first directive of this name among cells, or an empty string."""
    return next((found[name] for found in map(directives, cells) if name in found), "")


def assembled(by_nbdev, notebook_name, doc, imports, offers):
    """A module as nbdev wrote it, with its docstring, its imports, and what it offers of others'."""
    listed = re.search(r"^__all__ = (\[.*?\])", by_nbdev, flags=re.M | re.S)[1]
    names = [*ast.literal_eval(listed), *offers]
    every = "__all__ = [" + "".join(f'\n    "{name}",' for name in names) + "\n]"
    cells = by_nbdev[by_nbdev.index(f"# %% {notebook_name} #") :].rstrip()
    doc = "\n".join(textwrap.wrap(doc, 106, initial_indent='"""')) + '"""' if doc else ""
    warning = f"# Written by `make export` from {notebook_name}; change it there."
    return "\n\n".join(part for part in (doc, warning, imports, every, cells) if part) + "\n"


def export_all(root=ROOT, destination=None, only=()):
    """Export every notebook that has something to export; returns the paths, relative to `destination`."""
    destination = destination or root
    written = []
    for notebook in only or notebook_paths(root):
        folder = destination / notebook.parent
        folder.mkdir(parents=True, exist_ok=True)
        written += export_notebook(root / notebook, folder)
    return sorted(path.relative_to(destination) for path in written if path.name not in HAND_WRITTEN)
