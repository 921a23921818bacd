"""Runs a function of a notebook in several processes, which torchrun starts. Written by hand.

A new process knows nothing of a notebook's cells. So the function's source, and that of everything from the
cells that it uses, is written to a file, and torchrun starts that file once for each process.
"""

import ast
import linecache
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """\
import os, sys, torch
sys.path.insert(0, {root!r})
from appendix.c_scale.common import named_exit, process_group
{imports}

{sources}

globals().update(torch.load({folder!r} + "/values.pt", weights_only=False))
try:
    with process_group({timeout}):
        result = {function}()
    torch.save(result, {folder!r} + f"/{{os.environ['RANK']}}.pt")
except Exception as error:
    named_exit(error)
"""


def on_every_rank(function, n_processes, timeout=60, space=None, cells=None):
    """What `function()`, from a cell of this notebook, returns in each of n_processes: a list, by rank.

    timeout: seconds that a process may wait for another. ChildProcessError names what each rank died of,
    ValueError refuses a lambda and a function made inside another.
    space, cells: the names of a notebook and the sources of its cells; None: of the one that runs.
    """
    if cells is None:
        space = function.__globals__
        cells = [*kept_cells(), *space["In"]]
    if space.get(function.__name__) is not function:
        raise ValueError(f"{function.__name__}: expected a function with a name, from a cell")
    with tempfile.TemporaryDirectory() as folder:
        imports, sources, values = needed(function.__name__, space, cells)
        torch.save(values, f"{folder}/values.pt")
        script = Path(folder) / "on_every_rank.py"
        script.write_text(
            SCRIPT.format(
                root=str(ROOT),
                folder=folder,
                imports="\n".join(imports),
                sources="\n\n".join(sources),
                function=function.__name__,
                timeout=timeout,
            ),
            encoding="utf-8",
        )
        torchrun(n_processes, str(script))
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(n_processes)]


def kept_cells():
    """The sources of cells that IPython keeps for its tracebacks; under nbval it keeps no others."""
    entries = [entry for entry in linecache.cache.values() if len(entry) == 4 and entry[1] is None]
    return ["".join(lines) for _, _, lines, _ in entries]


def needed(name, space, cells):
    """(import lines, sources in the order of the cells, {name: value}) that a name of a notebook rests on."""
    imports, sources, values, seen, todo = [], {}, {}, set(), [name]
    while todo:
        name = todo.pop()
        if name in seen or name not in space:
            continue
        seen.add(name)
        thing = space[name]
        if isinstance(thing, ModuleType):
            imports.append(f"import {thing.__name__} as {name}")
        elif isinstance(thing, type | FunctionType | BuiltinFunctionType):
            if thing.__module__ == "__main__":
                place, source = definition(name, cells)
                sources[place] = source
                todo += [node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
            else:
                imports.append(f"from {thing.__module__} import {thing.__name__} as {name}")
        else:
            values[name] = thing
            todo.append(type(thing).__name__)
    return imports, [sources[place] for place in sorted(sources)], values


def definition(name, cells):
    """((number of the cell, line), source) of the newest definition of a function or class."""
    for number, cell in reversed(list(enumerate(cells))):
        try:
            body = ast.parse(cell).body
        except SyntaxError:  # a cell with notebook commands
            continue
        for node in reversed(body):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return (number, first), "\n".join(cell.splitlines()[first - 1 : node.end_lineno])
    raise NameError(f"{name}: no cell of this notebook defines it")


def torchrun(n_processes, *arguments, patience=400):
    """Start a program n_processes times on this machine; returns what it printed.

    arguments: a file, or "-m" and a module, and their arguments. ChildProcessError, with one line for each
    rank that failed, when one fails or all take longer than `patience` seconds; none is left running.
    """
    if not isinstance(n_processes, int) or n_processes < 1:
        raise ValueError(f"n_processes={n_processes!r}: expected a whole number of 1 or more")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n_processes}", *map(str, arguments)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise ChildProcessError(f"not done after {patience} s, and ended") from None
    finally:
        if process.poll() is None:  # out of patience, or interrupted
            process.send_signal(signal.SIGTERM)  # torchrun ends its processes
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise ChildProcessError("\n".join(reasons(errors)) or errors[-2000:])
    return output


def reasons(errors):
    """One line for each rank that failed: what it said itself, or the signal that ended it."""
    said = sorted(set(re.findall(r"^(?:\[\w+\]:)?(rank \S+: .*)$", errors, flags=re.M)))
    for rank, code in re.findall(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-\d+)", errors):
        if int(code) != -signal.SIGTERM:  # which is how torchrun ends the others
            said.append(f"rank {rank}: ended by {signal.Signals(-int(code)).name}")
    return said
