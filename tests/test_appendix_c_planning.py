"""Appendix C, planning a run: each formula against something that was counted, and against published runs."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from appendix.c_scale.failures import (
    daly_interval,
    expected_goodput,
    mean_time_between_failures,
    simulated_goodput,
    young_interval,
)
from appendix.c_scale.planning import (
    GIB,
    HARDWARE,
    MODELS,
    Layout,
    bubble,
    communication,
    fault,
    fitting_plans,
    gpt,
    gpu_memory,
    layer_activations,
    layer_split,
    link,
    llama,
    plan,
    ring_bytes,
    stage_memory,
    stage_parameters,
    step_seconds,
    token_flops,
)
from ch04_transformer.accounting import saved_bytes
from ch04_transformer.counting import parameter_formula
from ch04_transformer.transformer import GPT, count_parameters

GELU = gpt(64, 3, 4, vocab_size=100, context_length=32)
SWIGLU = llama(64, 3, 4, 2, 96, vocab_size=100, context_length=32)
A100, H100, LARGEST = HARDWARE["A100"], HARDWARE["H100"], MODELS["Llama 3 405B"]
RUN = dict(n_gpus=16384, batch_size=2048, n_tokens=15.6e12)


# ---------------------------------------------------------------- operations and parameters


@pytest.mark.parametrize("config", [GELU, SWIGLU], ids=["gpt", "llama"])
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_are_those_that_pytorch_counts(config, recompute):
    config = replace(config, backend="eager")
    model = GPT(config)
    if recompute:
        for block in model.blocks:
            whole = block.forward
            block.forward = lambda *args, whole=whole, **options: checkpoint(
                whole, *args, use_reentrant=False, **options
            )
    token_ids = torch.randint(config.vocab_size, (2, config.context_length))
    # unless told otherwise, a block that runs again stops before its last product, which nothing needs
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        model(token_ids).sum().backward()
    assert counter.get_total_flops() == token_ids.numel() * token_flops(config, recompute)


@pytest.mark.parametrize("name", MODELS)
def test_stages_add_up_to_the_courses_own_model(name):
    config = MODELS[name]
    with torch.device("meta"):
        counted = count_parameters(GPT(replace(config, n_layers=8)))
    config = replace(config, n_layers=8)
    assert stage_parameters(config, Layout(), 0) == counted == sum(parameter_formula(config).values())
    twice = config.vocab_size * config.d_model if config.tie_weights else 0  # in the first and the last stage
    for pp in (2, 3, 8):
        stages = [stage_parameters(config, Layout(pp=pp), stage) for stage in range(pp)]
        assert sum(stages) == pytest.approx(counted + twice)
    whole = parameter_formula(config)["norms"] + parameter_formula(config)["positions"]  # on each of the tp
    assert stage_parameters(config, Layout(tp=4), 0) == pytest.approx((counted - whole) / 4 + whole)


def test_blocks_are_split_evenly_with_fewer_at_the_ends():
    assert layer_split(126, 16) == [7] + 14 * [8] + [7]  # Llama 3 405B: Dubey et al. 2024, section 3.3.2
    for n_layers in range(1, 40):
        for pp in range(1, n_layers + 1):
            split = layer_split(n_layers, pp)
            assert sum(split) == n_layers and max(split) - min(split) <= 1 and len(split) == pp
            if n_layers % pp <= pp - 2:
                assert split[0] == split[-1] == min(split)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_holds_what_its_paper_says(stage, gigabytes):
    """Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs."""
    config = replace(MODELS["Llama 2 7B"], n_layers=36, d_ff=10816)
    n = sum(parameter_formula(config).values())
    parts = stage_memory(config, Layout(dp=64, zero_stage=stage), 64, 0)
    weights = parts["weights"] - (2 * 2 * n / config.n_layers if stage == 3 else 0)  # blocks that are whole
    held = (weights + parts["gradients"] + parts["optimizer"]) / n * 7.5
    assert held == pytest.approx(gigabytes, rel=0.02)


def test_a_block_keeps_what_korthikanti_says():
    for name, heads, width, share in (("175B", 96, 12288, 0.70), ("530B", 128, 20480, 0.65)):  # section 5
        config = replace(gpt(width, 1, heads), dropout=0.1, backend="eager")
        kept = layer_activations(config, Layout())
        assert kept == 34 * width + 5 * heads * 2048, name
        fused = layer_activations(replace(config, backend="sdpa"), Layout())
        assert 1 - fused / kept == pytest.approx(share, abs=0.005)
        tp = layer_activations(config, Layout(tp=8, sequence_parallel=False))
        assert tp == 10 * width + (24 * width + 5 * heads * 2048) / 8
        assert layer_activations(config, Layout(tp=8)) == kept / 8
        assert layer_activations(config, Layout(recompute=True)) == 2 * width


@pytest.mark.parametrize("config", [GELU, SWIGLU], ids=["gpt", "llama"])
def test_activations_are_those_that_pytorch_keeps(config):
    config = replace(config, d_model=128, d_ff=512, context_length=64)
    kept = []
    for n_layers in (2, 5):
        model = GPT(replace(config, n_layers=n_layers))
        token_ids = torch.randint(config.vocab_size, (2, 64))
        kept.append(saved_bytes(lambda model=model, ids=token_ids: model(ids), model.parameters()))
    a_token = (kept[1] - kept[0]) / 3 / token_ids.numel()
    formula = 2 * layer_activations(config, Layout())  # 32 bits, where the formula has 16
    if config.activation == "swiglu":  # nothing fuses it here
        formula += 4 * config.ff_width
    assert a_token == pytest.approx(formula, rel=0.1)


def test_the_last_stage_keeps_what_korthikanti_says():
    """Section 4.3: input and output of the last norm, and logits in 32 bits: 4 D + 4 V, over tp."""
    blocks = layer_activations(GELU, Layout(tp=4)) * GELU.n_layers
    parts = stage_memory(GELU, Layout(tp=4), 1, 0)
    assert parts["activations"] == pytest.approx(32 * (blocks + 4 * (64 + 100) / 4))
    whole = Layout(tp=4, sequence_parallel=False)
    blocks = layer_activations(GELU, whole) * GELU.n_layers
    assert stage_memory(GELU, whole, 1, 0)["activations"] == pytest.approx(32 * (blocks + 4 * (64 + 100 / 4)))


def random_layouts(n, seed=0):
    generator = random.Random(seed)
    for _ in range(n):
        config = replace(generator.choice([GELU, SWIGLU]), n_layers=generator.randint(8, 20))
        pp, v = generator.choice([1, 2, 3, 4, 8]), generator.choice([1, 2])
        layout = Layout(
            generator.choice([1, 2, 4]), generator.choice([1, 2, 4]), pp, generator.choice([1, 2]),
            generator.randrange(4), generator.random() < 0.5, v, generator.random() < 0.5,
        )  # fmt: skip
        yield config, layout, layout.dp * layout.micro_batch * generator.choice([1, 3, 24])


def test_the_fullest_gpu_is_the_fullest_of_all_stages():
    for config, layout, batch_size in random_layouts(200):
        stages = [stage_memory(config, layout, batch_size, stage) for stage in range(layout.pp)]
        fullest = max(sum(parts.values()) for parts in stages)
        assert sum(gpu_memory(config, layout, batch_size).values()) == fullest


def test_a_stage_holds_as_many_micro_batches_as_a_schedule_has_begun():
    """One forward, one backward: stage s runs pp - s forward passes before its first backward pass."""
    for pp, m in ((4, 8), (4, 2), (8, 8)):
        config = replace(GELU, n_layers=pp)
        for stage in range(pp - 1):
            warm_up = min(m, pp - stage - 1)
            work = "f" * warm_up + "fb" * (m - warm_up) + "b" * warm_up
            begun = max(work[:i].count("f") - work[:i].count("b") for i in range(len(work) + 1))
            parts = stage_memory(config, Layout(pp=pp), m, stage)
            one = layer_activations(config, Layout(pp=pp)) * config.context_length
            assert parts["activations"] == pytest.approx(begun * one)


def interleaved_orders(pp, m, v):
    """The work of each stage, [(kind, group, piece)], as Megatron's schedules.py sets it up for v groups."""
    forward = [(g, turn * pp + i) for turn in range(m // pp) for g in range(v) for i in range(pp)]
    backward = [(v - 1 - g, i) for g, i in forward]
    for stage in range(pp):
        warm_up = min(m * v, 2 * (pp - stage - 1) + (v - 1) * pp)
        steady = [work for pair in zip(forward[warm_up:], backward) for work in zip("fb", pair)]
        ends = backward[m * v - warm_up :]
        yield [("f", w) for w in forward[:warm_up]] + steady + [("b", w) for w in ends]


@pytest.mark.parametrize(("pp", "m", "v"), [(4, 8, 2), (4, 8, 3), (2, 8, 4), (8, 16, 4)])
def test_an_interleaved_stage_holds_what_its_schedule_has_begun(pp, m, v):
    orders = list(interleaved_orders(pp, m, v))
    done, free, at = {}, [0] * pp, [0] * pp
    for _ in range(2 * m * v * pp):  # the schedule runs to its end, without waiting in a circle, and in time
        for stage, order in enumerate(orders):
            while at[stage] < len(order):
                kind, (group, piece) = order[at[stage]]
                k = group * pp + stage
                forward = [("f", k - 1, piece)] if k else []
                backward = [("f", k, piece)] + ([("b", k + 1, piece)] if k < v * pp - 1 else [])
                needed = forward if kind == "f" else backward
                if not all(work in done for work in needed):
                    break
                free[stage] = max([free[stage]] + [done[work] for work in needed]) + 1
                done[kind, k, piece], at[stage] = free[stage], at[stage] + 1
    assert len(done) == 2 * m * v * pp and 1 - 2 * m * v / max(free) == pytest.approx(bubble(pp, m, v))

    config = replace(GELU, n_layers=pp * v)
    one = layer_activations(config, Layout()) * config.context_length
    for stage, order in enumerate(orders[:-1]):  # the last has the logits as well
        kinds = "".join(kind for kind, _ in order)
        begun = max(kinds[:i].count("f") - kinds[:i].count("b") for i in range(len(kinds) + 1))
        parts = stage_memory(config, Layout(pp=pp, interleave=v), m, stage)
        assert parts["activations"] == pytest.approx(begun * one)


# ---------------------------------------------------------------- wires


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_ring_bytes_are_those_of_a_ring(n):
    size, passes = 24, 0
    lists = [[random.Random(gpu).random() + i for i in range(size)] for gpu in range(n)]
    total, sent = [sum(column) for column in zip(*lists)], [0] * n
    step = size // n
    for turn in range(2 * (n - 1)):
        messages = []
        for gpu in range(n):
            start = (gpu - turn) % n * step
            messages.append((gpu, start, lists[gpu][start : start + step]))
        for gpu, start, numbers in messages:
            other = lists[(gpu + 1) % n]
            sent[gpu] += len(numbers)
            for i, number in enumerate(numbers, start):
                other[i] = other[i] + number if turn < n - 1 else number
        passes += turn == n - 2
    assert all(numbers == pytest.approx(total) for numbers in lists) and passes == 1
    assert sent == n * [2 * ring_bytes(size, n)]
    assert ring_bytes(size, 1) == 0


def test_communication_of_a_step_counted_message_by_message():
    config = replace(GELU, n_layers=8)
    layout = Layout(dp=2, tp=4, pp=2, micro_batch=3, zero_stage=0)
    vectors = 2 * 3 * 32 * 64  # bytes of (3, 32, 64) in 16 bits
    sent = {"tensor": 0.0, "pipeline": 0.0, "data": 0.0}
    for _ in range(5):  # micro-batches
        for _block in range(4):
            for _reduce in ("attention", "feed-forward", "attention's gradient", "feed-forward's gradient"):
                sent["tensor"] += vectors * (3 / 4) * 2
        sent["pipeline"] += 2 * vectors / 4
    heaviest = max(stage_parameters(config, layout, stage) for stage in (0, 1))
    sent["data"] = 2 * 2 * heaviest * (1 / 2)
    assert communication(config, layout, batch_size=30) == pytest.approx(sent)
    for stage, passes in ((1, 2), (2, 6), (3, 15)):
        other = communication(config, replace(layout, zero_stage=stage), 30)
        assert other["data"] == pytest.approx(sent["data"] / 2 * passes)
    again = communication(config, replace(layout, recompute=True), 30)
    assert again["tensor"] == pytest.approx(1.5 * sent["tensor"])


def test_links_are_fast_within_a_machine_only():
    assert link(H100, 8, stride=1) == H100.nvlink
    assert link(H100, 16, stride=1) == 8 * H100.network  # eight cables at once
    assert link(H100, 2, stride=4) == H100.nvlink
    assert link(H100, 4, stride=4) == 2 * H100.network
    assert link(H100, 128, stride=8) == link(H100, 2, stride=64) == H100.network


def flush_time(pp, m, v):
    """When pp stages are through with m micro-batches in v groups of blocks each, forward and backward."""
    order = [(turn, group, i) for turn in range(m // pp) for group in range(v) for i in range(pp)]
    done, free = {}, [0.0] * pp
    for turn, group, i in order:
        piece = turn * pp + i
        for stage in range(pp):
            before = done.get((group, stage - 1, piece), done.get((group - 1, pp - 1, piece), 0.0))
            before = done[group - 1, pp - 1, piece] if stage == 0 and group else before if stage else 0.0
            done[group, stage, piece] = free[stage] = max(free[stage], before) + 1 / v
    return 2 * max(free)  # the backward pass is the same, in reverse


@pytest.mark.parametrize(
    ("pp", "m", "v"), [(1, 4, 1), (4, 8, 1), (4, 8, 2), (4, 4, 3), (8, 32, 4), (2, 2, 5)]
)
def test_the_bubble_is_that_of_a_schedule_that_ran(pp, m, v):
    assert 1 - 2 * m / flush_time(pp, m, v) == pytest.approx(bubble(pp, m, v))
    config = replace(GELU, n_layers=pp * v)
    seconds = step_seconds(config, Layout(pp=pp, interleave=v), A100, batch_size=m)
    working = seconds["compute"] + seconds["tensor"]
    assert seconds["bubble"] / (working + seconds["bubble"]) == pytest.approx(bubble(pp, m, v))


def test_data_messages_cost_what_the_backward_pass_does_not_hide():
    slow = A100._replace(nvlink=1e9)
    m, layout = 6, Layout(dp=4)
    computing = 24 * 32 * token_flops(GELU) / 4 / (0.5 * A100.peak)
    for stage, passes, backward in ((0, 2, 1), (1, 2, 1), (2, 7, 6), (3, 18, 6)):
        seconds = step_seconds(GELU, replace(layout, zero_stage=stage), slow, batch_size=24)
        gradients = 2 * stage_parameters(GELU, layout, 0)
        sending = passes * gradients * (3 / 4) / 1e9
        hidden = computing * (2 / 3) * backward / m  # two thirds of a step are backward
        assert seconds["compute"] == pytest.approx(computing)
        assert seconds["data"] == pytest.approx(sending - hidden)
    fast = A100._replace(nvlink=1e18)
    assert step_seconds(GELU, layout, fast, batch_size=24)["data"] == 0


def test_tensor_and_pipeline_messages_are_waited_for():
    config = replace(GELU, n_layers=6)
    layout = Layout(dp=1, tp=4, pp=4)
    sent = communication(config, layout, 8)
    seconds = step_seconds(config, layout, A100, batch_size=8)
    assert seconds["tensor"] == pytest.approx(sent["tensor"] / A100.nvlink)
    assert seconds["pipeline"] == pytest.approx(sent["pipeline"] / A100.network)  # two machines
    inside = step_seconds(config, Layout(tp=2, pp=4), A100, batch_size=8)  # one; twice as much at tp 2
    assert inside["pipeline"] == pytest.approx(2 * sent["pipeline"] / A100.nvlink)
    even = step_seconds(replace(config, n_layers=8), layout, A100, batch_size=8)
    assert seconds["compute"] == pytest.approx(
        even["compute"], rel=0.1
    )  # two stages have 2 blocks, and set the pace


# ---------------------------------------------------------------- published runs


def flops_run(name, tokens):
    return tokens * token_flops(MODELS[name])


LLAMA1_MFU = 380 * token_flops(MODELS["Llama 1 65B"]) / A100.peak  # LLaMA, section 2.4


@pytest.mark.parametrize(
    ("predicted", "stated"),
    [
        (sum(parameter_formula(MODELS["GPT-3 175B"]).values()), 174.6e9),  # Brown et al. 2020, table D.1
        (flops_run("GPT-3 175B", 300e9), 3.14e23),
        (flops_run("GPT-3 175B", 300e9) / 1e15 / 86400, 3640),  # PF-days
        (sum(parameter_formula(LARGEST).values()), 405e9),  # Dubey et al. 2024, section 1
        (flops_run("Llama 3 405B", 15.6e12), 3.8e25),
        (flops_run("GPT-2 124M", 10e9) / (8 * A100.peak * 0.6) / 60, 90),  # llm.c, discussion 481
        (flops_run("GPT-2 350M", 31.5e9) / (8 * A100.peak * 0.6) / 3600, 13.7),  # its run_gpt2_350M.sh
        (flops_run("Llama 2 7B", 2e12) / (A100.peak * LLAMA1_MFU) / 3600, 184_320),  # Llama 2, table 2
        (flops_run("Llama 2 13B", 2e12) / (A100.peak * LLAMA1_MFU) / 3600, 368_640),
        (flops_run("Llama 2 70B", 2e12) / (A100.peak * LLAMA1_MFU) / 3600, 1_720_320),
        (flops_run("Llama 3 405B", 15.6e12) / 400e12 / 3600 / 0.9, 30.84e6),  # model card, table 4
    ],
)
def test_published_runs_from_their_flops(predicted, stated):
    assert predicted == pytest.approx(stated, rel=0.2)


@pytest.mark.parametrize(
    ("shape", "tp", "pp", "gpus", "batch", "texts", "groups", "teraflops"),
    # Narayanan et al. 2021, table 1; micro-batches and groups: Megatron-LM, examples/sc21/run_table_1.sh
    [
        ((2304, 24, 24), 1, 1, 32, 512, 16, 1, 137),
        ((4096, 36, 32), 4, 1, 128, 512, 16, 1, 142),
        ((8192, 48, 64), 8, 2, 512, 1536, 4, 1, 138),
        ((12288, 80, 96), 8, 8, 1536, 2304, 2, 2, 148),
        ((20480, 105, 128), 8, 35, 2520, 2520, 1, 3, 163),
        ((25600, 128, 160), 8, 64, 3072, 3072, 1, 1, 163),
    ],
)
def test_megatrons_speed_from_its_layouts(shape, tp, pp, gpus, batch, texts, groups, teraflops):
    config = gpt(*shape, vocab_size=51200)
    layout = Layout(gpus // (tp * pp), tp, pp, texts, 0, True, groups, sequence_parallel=False)
    seconds = sum(step_seconds(config, layout, A100, batch).values())
    done = batch * 2048 * token_flops(config, recompute=True) / seconds / gpus / 1e12
    assert done == pytest.approx(teraflops, rel=0.2)
    assert fault(config, layout, A100, gpus, batch) == ""  # it ran, so it must fit


@pytest.mark.parametrize(("dp", "teraflops"), [(64, 430), (128, 400)])  # Dubey et al. 2024, table 4
def test_llama_3_speed_from_its_layout(dp, teraflops):
    layout = Layout(dp, tp=8, pp=16, zero_stage=2, interleave=8)
    seconds = sum(step_seconds(LARGEST, layout, H100, 2048).values())
    done = 2048 * 8192 * token_flops(LARGEST) / seconds / layout.n_gpus / 1e12
    assert done == pytest.approx(teraflops, rel=0.2)
    assert sum(gpu_memory(LARGEST, layout, 2048).values()) < H100.memory  # it ran, so it must fit


# ---------------------------------------------------------------- plans


def test_the_layout_of_llama_3_is_among_the_best():
    plans = fitting_plans(LARGEST, H100, **RUN, max_tp=32)
    speeds = [p.mfu for p in plans]
    assert all(first > second - 0.001 for first, second in zip(speeds, speeds[1:]))
    for p in plans:
        assert fault(LARGEST, p.layout, H100, 16384, 2048) == "" and p.layout.n_gpus == 16384
        assert sum(p.memory.values()) <= 0.9 * H100.memory
    used = next(p for p in plans if (p.layout.tp, p.layout.pp, p.layout.recompute) == (8, 16, False))
    assert used.layout == Layout(128, 8, 16, 1, 2, interleave=8)
    assert used == next(p for p in plans if p.layout.tp <= 8) and used in plans[:5]


def test_a_plan_adds_up():
    made = plan(MODELS["GPT-2 124M"], Layout(dp=8, micro_batch=8), A100, 8, 512, 10e9, efficiency=0.6)
    assert made.mfu == pytest.approx(0.6) and sum(made.seconds.values()) == made.seconds["compute"]
    seconds = 10e9 * token_flops(MODELS["GPT-2 124M"]) / (8 * A100.peak * made.mfu)
    assert made.days * 86400 == pytest.approx(seconds)
    assert made.dollars == pytest.approx(seconds / 3600 * 8 * A100.price)


@pytest.mark.parametrize("efficiency", [50, 0, -0.5])
def test_an_efficiency_is_a_share(efficiency):
    layout, words = Layout(dp=8), f"efficiency={efficiency} must be above 0 and at most 1"
    with pytest.raises(ValueError, match=words):
        plan(MODELS["GPT-2 124M"], layout, A100, 8, 512, 10e9, efficiency)
    with pytest.raises(ValueError, match=words):
        fitting_plans(MODELS["GPT-2 124M"], A100, 8, 512, 10e9, efficiency)


@pytest.mark.parametrize("batch_size", [0, -512])
def test_a_step_has_a_text(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must be 1 text or more"):
        plan(MODELS["GPT-2 124M"], Layout(dp=8), A100, 8, batch_size, 10e9)
    assert fitting_plans(MODELS["GPT-2 124M"], A100, 8, batch_size, 10e9) == []


def test_one_gpu_has_nothing_to_share_out():
    plans = fitting_plans(MODELS["GPT-2 124M"], HARDWARE["T4"], 1, 512, 10e9)
    assert {p.layout.zero_stage for p in plans} == {0} and len({p.layout for p in plans}) == len(plans)
    assert {p.layout.zero_stage for p in fitting_plans(GELU, A100, 2, 8, 1e9)} == {0, 1, 2, 3}


def test_memory_of_a_gpu_is_what_its_driver_shows():
    shown = {"T4": 15360, "H100": 81559, "H200": 143771, "B200": 183359}  # MiB, nvidia-smi
    for name, mebibytes in shown.items():
        assert HARDWARE[name].memory / GIB == pytest.approx(mebibytes / 1024, abs=0.5)


def test_nothing_fits_where_nothing_can():
    assert fitting_plans(LARGEST, HARDWARE["T4"], n_gpus=8, batch_size=8, n_tokens=1e9) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(dp=64), "dp x tp x pp = 64 x 8 x 16 = 8192, and the cluster has 16384 GPUs; change one"),
        (dict(dp=32, tp=32), "n_heads=40"),
        (dict(tp=16, dp=64), "of tp=16 and n_kv_heads=10 neither divides the other"),
        (dict(pp=128, dp=16), "pp=128 x interleave=1 is more than the 126 blocks; take less"),
        (dict(micro_batch=32), "of 2048 texts cannot be cut into dp=128 x micro_batch=32 equal parts"),
        (dict(interleave=8, micro_batch=2), "needs a multiple of pp=16 micro-batches, and a GPU has 8"),
        (dict(zero_stage=0), "GiB, 35.0 more than the 72.0 that can be used; raise tp, pp or zero_stage"),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_told_why(changes, words):
    config = LARGEST
    if "n_heads" in words:
        config = replace(LARGEST, d_model=20480, n_heads=40, n_kv_heads=40)
    if "n_kv_heads=10" in words:
        config = replace(LARGEST, d_model=20480, n_heads=80, n_kv_heads=10)
    layout = replace(Layout(dp=128, tp=8, pp=16, zero_stage=2), **changes)
    assert words in fault(config, layout, H100, 16384, 2048)
    with pytest.raises(ValueError) as error:
        plan(config, layout, H100, **RUN)
    assert str(error.value) == fault(config, layout, H100, 16384, 2048)


def test_what_does_not_fit_says_by_how_much():
    layout = Layout(dp=128, tp=8, pp=16, zero_stage=0)
    needed = sum(gpu_memory(LARGEST, layout, 2048).values()) / GIB
    assert f"{needed:.1f} GiB, {needed - 72:.1f} more" in fault(LARGEST, layout, H100, 16384, 2048)
    assert fault(LARGEST, replace(layout, recompute=True), H100, 16384, 2048) == ""  # the way out is one


@pytest.mark.parametrize("changes", [dict(dp=0), dict(tp=1.5), dict(zero_stage=4), dict(pp=-1)])
def test_fields_of_a_layout_are_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Layout(**changes)


# ---------------------------------------------------------------- failures


def events(interval, checkpoint, restart, mtbf, n_failures, seed):
    """A run, event by event: the share of the time whose work was kept."""
    generator = random.Random(seed)
    now = kept = 0.0
    fails, failures, up = generator.expovariate(1 / mtbf), 0, True
    while failures < n_failures:
        takes = interval + checkpoint if up else restart
        if now + takes <= fails:
            now += takes
            kept += interval if up else 0.0
            up = True
        else:  # fails while working, saving or starting again
            now, failures, up = fails, failures + 1, False
            fails = now + generator.expovariate(1 / mtbf)
    return kept / now


@pytest.mark.parametrize("interval", [200.0, 800.0, 5000.0])
def test_simulation_formula_and_events_agree(interval):
    C, R, M = 30.0, 300.0, mean_time_between_failures(16000)
    exact = expected_goodput(interval, C, R, M)
    assert events(interval, C, R, M, 20_000, seed=1) == pytest.approx(exact, abs=0.01)
    for seed in range(3):
        found = simulated_goodput(torch.tensor([interval]), C, R, M, 50_000, seed)
        assert found.item() == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("n_gpus", [1000, 16000])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_interval_is_the_formulas(n_gpus, seed):
    C, R, M = 30.0, 300.0, mean_time_between_failures(n_gpus)
    intervals = torch.logspace(2, 4.5, 40, dtype=torch.float64)
    goodput = simulated_goodput(intervals, C, R, M, 50_000, seed)
    for formula in (young_interval, daly_interval):
        ours = simulated_goodput(torch.tensor([formula(C, M)]), C, R, M, 50_000, seed)
        assert ours.item() > goodput.max().item() - 0.003
        assert abs(math.log(intervals[goodput.argmax()] / formula(C, M))) < math.log(1.4)


@pytest.mark.parametrize(("C", "M"), [(10.0, 1e5), (30.0, 1.1e4), (300.0, 1e4)])
def test_daly_is_nearer_to_the_exact_optimum_than_young(C, M):
    grid = [young_interval(C, M) * (0.5 + i / 4000) for i in range(4000)]
    exact = max(grid, key=lambda tau: expected_goodput(tau, C, 0.0, M))
    assert daly_interval(C, M) == pytest.approx(exact, rel=0.005)
    assert abs(daly_interval(C, M) - exact) < abs(young_interval(C, M) - exact)
    assert daly_interval(3 * M, M) == M


@pytest.mark.parametrize(("hours", "minutes"), [(24, 117), (6, 57), (0.25, 9.1)])
def test_dalys_interval_is_that_of_his_figures(hours, minutes):
    """Daly 2006, captions of figures 3 to 5: a checkpoint of 5 minutes."""
    assert daly_interval(300, hours * 3600) / 60 == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)


def test_the_rate_of_failures_is_the_published_one():
    assert mean_time_between_failures(16384) / 3600 == pytest.approx(54 * 24 / 419)
    assert mean_time_between_failures(1024) == 16 * mean_time_between_failures(16384)
