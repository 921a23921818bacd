"""What keeps the notebooks, and the modules made from them, in step: one module for each job.

    files     which notebooks there are, reading and writing them
    links     the repository's URL in badges, set-up cells and the README
    export    notebook -> modules
    running   running a notebook, and what is stored of it
    reading   how long a notebook takes to read, and how long its cells are
    workbook  the exercises, made from their solutions
    guards    how much of a module checks its arguments
    rules     what can be wrong, as sentences

`python tests/notebooks COMMAND` runs them, see __main__.py; `make` has a target for each command.
"""

from notebooks.export import export_all
from notebooks.files import (
    APPENDICES,
    CHAPTERS,
    FOLDERS,
    HAND_WRITTEN,
    ROOT,
    dotted,
    is_main_way,
    is_setup,
    is_workbook,
    lines_of,
    notebook_paths,
    read_notebook,
    tags,
    write_notebook,
)
from notebooks.guards import guards_by_module
from notebooks.links import REQUIREMENTS, course_settings, setup_source, write_badges
from notebooks.rules import code_problems, module_problems, problems
from notebooks.running import clean_notebook, execute, fold

__all__ = [
    "APPENDICES",
    "CHAPTERS",
    "FOLDERS",
    "HAND_WRITTEN",
    "REQUIREMENTS",
    "ROOT",
    "clean_notebook",
    "code_problems",
    "course_settings",
    "dotted",
    "execute",
    "export_all",
    "fold",
    "guards_by_module",
    "is_main_way",
    "is_setup",
    "is_workbook",
    "lines_of",
    "module_problems",
    "notebook_paths",
    "problems",
    "read_notebook",
    "setup_source",
    "tags",
    "write_badges",
    "write_notebook",
]
