"""Chapter 5: what the Trainer costs, what accumulation saves, what bf16 and torch.compile give."""

import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import compare, lazily, needs_compiler

from ch04_transformer.accounting import forward_flops
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.data import TokenDataset
from ch05_training.training import AdamW, TrainConfig, Trainer, parameter_groups, warmup_cosine

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = {  # quick: (model, batch size, steps in one measurement)
    True: (GPTConfig(256, 32, d_model=32, n_heads=2, n_layers=2), 4, 2),
    False: (GPTConfig.preset("gpt2-mini"), 16, 2),  # as in the benchmark of chapter 4
}


class Done(Exception):
    """Raised to leave a Trainer after some steps."""


def matmul_peak(device, dtype, rounds=5):
    """Floating-point operations a second in a large matrix product, measured: the best of some rounds."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(rounds):
        began = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def dataset(config):
    ids = torch.randint(config.vocab_size, (100_000,), generator=torch.Generator().manual_seed(0))
    return TokenDataset(ids, config.context_length)


def bare_loop(config, data, batch, n_steps, optimizer_class):
    """The least that trains: the same model, batches, schedule and clipping, from PyTorch's own pieces."""
    model, taken = GPT(config).to(DEVICE).train(), [0]
    optimizer = optimizer_class(parameter_groups(model, 0.1), lr=1e-4, betas=(0.9, 0.99))

    def loop():
        for _ in range(n_steps):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(taken[0], 1e-4, 0.0, 50, 10_000)
            inputs, targets = (part.to(DEVICE) for part in data.batch(taken[0], batch))
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            taken[0] += 1

    return loop


def trainer_loop(config, data, batch, n_steps, run_dir=None, **changes):
    """Trainer.fit with its progress bar and metrics; each call goes on for n_steps."""
    options = {"steps": 10_000, "batch_size": batch, "max_lr": 1e-4, "eval_every": 0, "checkpoint_every": 0}
    options |= {"precision": "float32", "device": DEVICE.type}
    if changes.get("compile"):
        needs_compiler(DEVICE)
    trainer = Trainer(GPT(config), TrainConfig(**options | changes), data, run_dir=run_dir)

    def leave(history):
        if len(history) % n_steps == 0:
            raise Done

    def loop():
        with contextlib.suppress(Done), contextlib.redirect_stderr(io.StringIO()):
            trainer.fit(watch=leave)

    return loop


def run(quick):
    torch.manual_seed(0)
    config, batch, n_steps = SIZES[quick]
    data = dataset(config)
    tokens = n_steps * batch * config.context_length
    sizes = (
        f"{config.n_layers} layers, d_model {config.d_model}, context {config.context_length}, batch {batch}"
    )
    common = (config, data, batch, n_steps)
    with tempfile.TemporaryDirectory() as folder:
        candidates = {
            "bare loop, torch.optim.AdamW": lazily(bare_loop, *common, torch.optim.AdamW),
            "bare loop, our AdamW": lazily(bare_loop, *common, AdamW),
            "Trainer": lazily(trainer_loop, *common, run_dir=folder),
        }
        compare(
            f"{n_steps} training steps, {sizes}, vocabulary {config.vocab_size}, float32",
            candidates,
            "bare loop, our AdamW",
            rounds=2 if quick else 9,
            goals={"Trainer": 1.03},
            work=tokens,
            unit="tokens",
        )
    precisions(common, sizes, tokens, quick)
    if not quick:
        peak_memory(config, batch)


def precisions(common, sizes, tokens, quick):
    """bf16 autocast and torch.compile against our own float32 eager, and what the machine can do at best."""
    candidates = {
        "float32 eager": lazily(trainer_loop, *common),
        "bf16 autocast": lazily(trainer_loop, *common, precision="bfloat16"),
    }
    if not quick:
        candidates["compiled"] = lazily(trainer_loop, *common, compile=True)
        candidates["bf16 and compiled"] = lazily(trainer_loop, *common, precision="bfloat16", compile=True)
    last = list(candidates)[-1]
    title = f"precision and compilation, {sizes}"
    rounds, goals = 2 if quick else 7, {} if quick else {last: 1 / 1.5}
    ratios = compare(title, candidates, "float32 eager", rounds, goals, tokens, "tokens")
    for name, ratio in ratios.items():
        print(f"  {name}: {1 / ratio:.2f} times float32 eager")
    config, _, batch, n_steps = common
    work = 3 * n_steps * sum(forward_flops(config, batch, config.context_length).values())
    for dtype in (torch.float32, torch.bfloat16):
        peak = matmul_peak(DEVICE, dtype)
        print(f"  measured peak of a matrix product, {dtype}: {peak / 1e9:,.0f} GFLOP/s")
    print(f"  {n_steps} steps are {work / 1e9:,.1f} GFLOP: MFU is that over seconds over the peak")


CHILD = """
import json, sys
import torch
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.data import TokenDataset
from ch05_training.training import TrainConfig, Trainer
model, batch, pieces = json.loads(sys.argv[1])
ids = torch.randint(model["vocab_size"], (20_000,), generator=torch.Generator().manual_seed(0))
options = {"steps": 100, "batch_size": batch // pieces, "grad_accum": pieces, "device": "cpu"}
trainer = Trainer(GPT(GPTConfig(**model)), TrainConfig(**options), TokenDataset(ids, model["context_length"]))

def highest():
    lines = open("/proc/self/status").read().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("VmHWM")][0]

before = highest()
for _ in range(2):
    trainer.take_step()
print(before, highest())
"""


def peak_memory(config, batch):
    """The peak memory of a process that trains on the CPU: one large batch, and the same batch in pieces."""
    if sys.platform != "linux":  # elsewhere there is no /proc
        return
    print(
        f"\npeak memory of a training process on the CPU, a batch of {batch} x {config.context_length} tokens"
    )
    for pieces in (1, 4, 16):
        argument = json.dumps([vars(config), batch, pieces])
        done = subprocess.run(
            [sys.executable, "-c", CHILD, argument], cwd=ROOT, capture_output=True, text=True
        )
        before, peak = (int(number) / 1024 for number in done.stdout.split())
        name = f"{pieces} x {batch // pieces}"
        print(f"  {name:7}  {peak:7,.0f} MiB, of which {peak - before:5,.0f} for the steps")
