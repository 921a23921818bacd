"""The program that torchrun starts: trains one model in each of several ways, and compares nothing itself.

    python -m torch.distributed.run --standalone --nproc-per-node 4 -m appendix.c_scale.run_parallel \
        --methods tensor fsdp --out results.pt

Written by hand: it joins the processes, hands them to the methods of the notebook, and names what fails.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from .common import MODELS, Problem, named_exit, process_group
from .parallel import data_parallel, ddp, fsdp, train
from .pipeline import data_pipeline, pipeline
from .tensor_parallel import fsdp_tensor, tensor_parallel, tensor_plan

METHODS = {
    "data": data_parallel,
    "ddp": ddp,
    "fsdp": fsdp,
    "tensor": tensor_parallel,
    "tensor-plan": tensor_plan,
    "pipeline": pipeline,
    "gpipe": partial(pipeline, schedule=ScheduleGPipe),
    "1f1b": partial(pipeline, schedule=Schedule1F1B),
    "fsdp-tensor": fsdp_tensor,
    "data-pipeline": data_pipeline,
}
MOST = 1_000_000  # steps, windows or seconds


def run(options):
    """Train in each of the ways asked for; rank 0 saves {method: {losses, weights, held by each rank}}."""
    problem = Problem(
        MODELS[options.model], options.batch_size, options.steps, dtype=getattr(torch, options.precision)
    )
    results = {}
    with process_group(options.timeout):
        for name in options.methods:
            result = train(problem, METHODS[name])
            held = [None] * dist.get_world_size()
            dist.all_gather_object(held, result["held"])
            results[name] = result | {"held": held}
            if dist.get_rank() == 0:
                print(f"{name:14} loss {result['losses'][0]:.4f} -> {result['losses'][-1]:.4f}", flush=True)
        if options.out and dist.get_rank() == 0:
            torch.save(results, options.out)


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="run_parallel", description="One model, trained in several ways.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, required=True)
    parser.add_argument("--model", choices=MODELS, default="gpt2")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8, help="windows in a step, over all processes")
    parser.add_argument("--precision", choices=("float64", "float32"), default="float64")
    parser.add_argument("--timeout", type=int, default=60, help="seconds to wait for another process")
    parser.add_argument("--out", help="file for the results, written by rank 0")
    options = parser.parse_args(arguments)
    if options.out and not Path(options.out).resolve().parent.is_dir():
        parser.error(f"--out {options.out}: its folder does not exist; make it first")
    if options.out and Path(options.out).is_dir():
        parser.error(f"--out {options.out}: is a folder; name a file")
    for name in ("steps", "batch_size", "timeout"):
        if not 1 <= getattr(options, name) <= MOST:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: expected 1 to {MOST}")
    return options


def main(arguments=None):
    options = parse(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        named_exit(error)


if __name__ == "__main__":
    main()
