"""Appendix F, ablations: the harness loses nothing, the statistics are right, the verdict is seldom wrong."""

import functools
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from appendix.d_architectures.trials import small_data
from appendix.f_ablations import harness, try_idea
from appendix.f_ablations.comparing import (
    compare,
    holm,
    in_words,
    paired_difference,
    seeds_needed,
    sign_flip_p,
    student_cdf,
    student_quantile,
    table,
)
from appendix.f_ablations.harness import (
    BASE,
    Budget,
    Variant,
    ablate,
    code_of,
    cost_of_step,
    key_of,
    run,
    settings_of,
    start_variant,
    train_variant,
)
from appendix.f_ablations.try_idea import BadIdea, check_idea, load_idea, run_idea
from ch04_transformer.accounting import forward_flops
from ch05_training.data import TokenDataset

ROOT = Path(__file__).resolve().parent.parent
IDEAS = ROOT / "appendix" / "f_ablations" / "ideas"
TINY = Variant(
    "baseline",
    model=dict(vocab_size=16, context_length=8, d_model=8, n_heads=1, n_layers=1),
    train=dict(batch_size=2, max_lr=1e-2, warmup_steps=0),
)
FEW = Budget(tokens=5 * 2 * 8)  # five steps


def tiny_text(seed, n):
    ids = torch.randint(16, (n,), generator=torch.Generator().manual_seed(seed))
    return TokenDataset(ids, 8, n_bytes=2 * n)


DATA = (tiny_text(0, 400), tiny_text(1, 60))


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("t", (-40.0, -3.0, -0.2, 0.0, 0.5, 2.0, 9.0))
def test_students_distribution_has_its_closed_forms(t):
    forms = {
        1: 0.5 + math.atan(t) / math.pi,
        2: 0.5 + t / (2 * math.sqrt(2 + t * t)),
        4: 0.5 + 3 / 8 * (t / math.sqrt(1 + t * t / 4)) * (1 - t * t / (1 + t * t / 4) / 12),
    }
    for df, expected in forms.items():
        assert abs(student_cdf(t, df) - expected) < 1e-6


def test_students_quantiles_are_those_of_the_printed_tables():
    for (p, df), value in {
        (0.975, 1): 12.706,
        (0.975, 4): 2.776,
        (0.975, 9): 2.262,
        (0.975, 30): 2.042,
        (0.95, 7): 1.895,
        (0.995, 3): 5.841,
    }.items():
        assert abs(student_quantile(p, df) - value) < 6e-4
    assert abs(student_quantile(0.975, 1000) - 1.9623) < 6e-4  # nearly that of the normal distribution


def test_the_paired_difference_by_hand():
    d = paired_difference([457, 451, 468], [460, 452, 470])
    assert (d.mean, d.sd, d.n) == (-2.0, 1.0, 3)
    assert (
        abs(d.low - (-2 - 4.3027 / math.sqrt(3))) < 1e-3 and abs(d.high - (-2 + 4.3027 / math.sqrt(3))) < 1e-3
    )
    t = 2 * math.sqrt(3)
    assert abs(d.p - (1 - t / math.sqrt(2 + t * t))) < 1e-6
    turned = paired_difference([460, 452, 470], [457, 451, 468])
    assert (turned.mean, turned.p) == (2.0, d.p)


def test_what_a_difference_cannot_say():
    assert math.isnan(paired_difference([1.0], [2.0]).p)
    assert math.isnan(paired_difference([1.0, math.inf], [2.0, 1.0]).p)
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired_difference([1.5, 2.5], [1.0, 2.0]).p == 0.0
    assert paired_difference([1.0, 2.0, 3.0000001, 4.0], [2.0, 3.0, 4.0, 5.0]).p == 0.0  # and not below
    for short in ([1.0], [1.0, 2.0]):
        with pytest.raises(ValueError, match="shorter|longer"):
            paired_difference(short, [1.0, 2.0, 3.0])


def test_an_interval_holds_the_truth_as_often_as_it_says():
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        mine = (0.3 + torch.randn(4, generator=generator)).tolist()
        d = paired_difference(mine, [0.0] * 4)
        held += d.low < 0.3 < d.high
    assert 0.92 < held / 1000 < 0.98


def test_swapping_signs_is_what_it_says():
    d = [-0.3, 0.1, -0.25, 0.02, -0.4]
    sums = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip_p(d) == sum(s >= abs(sum(d)) - 1e-12 for s in sums) / 32
    assert sign_flip_p([-3, -1, -2]) == 0.25 and sign_flip_p([1.0]) == 1.0


def test_holm_by_hand_and_never_below_the_plain_p():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.8]) == [1.0, 1.0]
    p = torch.rand(9, generator=torch.Generator().manual_seed(0)).tolist()
    assert all(p[i] <= q <= min(1, 9 * p[i]) for i, q in enumerate(holm(p)))


@pytest.mark.parametrize("difference", (0.6, 1.2, -2.5))
def test_the_seeds_that_are_asked_for_are_enough(difference):
    n = seeds_needed(0.7, 0.7 * difference)
    d = difference + torch.randn(4000, n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    t = d.mean(dim=1).abs() / d.std(dim=1) * math.sqrt(n)
    assert 0.76 < (t > student_quantile(0.975, n - 1)).double().mean() < 0.93
    assert seeds_needed(1.0, 0.0) == math.inf


def made_up(generator, gain=0.0, ideas=4, seeds=5):
    results = []
    for number in range(ideas + 1):
        for seed, noise in enumerate(torch.randn(seeds, generator=generator).tolist()):
            loss = 4.5 + 0.05 * noise - gain * (number == 1)
            name = f"idea {number}" if number else "baseline"
            results.append({"variant": name, "seeds": [seed, seed], "held_out": loss})
    return [row.verdict for row in compare(results)[1:]]


@pytest.mark.parametrize("ideas", (1, 4))
def test_the_verdict_is_wrong_in_one_table_of_twenty_at_most(ideas):
    generator = torch.Generator().manual_seed(ideas)
    wrong = sum(any(v in ("helps", "hurts") for v in made_up(generator, ideas=ideas)) for _ in range(600))
    assert wrong / 600 < 0.08


def test_the_verdict_finds_what_is_there():
    generator = torch.Generator().manual_seed(9)
    verdicts = [made_up(generator, gain=0.3)[0] for _ in range(40)]
    assert verdicts.count("helps") > 35
    assert made_up(generator, gain=-0.3)[0] == "hurts"


def test_the_words_of_a_verdict():
    def said(mine, base, p=None):
        d = paired_difference(mine, base)
        return in_words(d, d.p if p is None else p)

    assert said([1.0], [2.0]) == "cannot tell: one seed is not enough"
    assert said([1.0, math.inf], [2.0, 2.0]) == "cannot tell: a training diverged"
    assert said([1.0, 2.0], [1.0, 2.0]) == "no difference: the same losses"
    assert said([1.0, 1.1, 0.9], [2.0, 2.11, 1.91]) == "helps"
    assert said([2.0, 2.11, 1.91], [1.0, 1.1, 0.9]) == "hurts"
    assert said([2.0, 2.11, 1.91], [1.0, 1.1, 0.9], p=0.2).startswith("cannot tell: about 1 more seed would")
    d = paired_difference([1.0, 1.3, 0.8, 1.1], [1.1, 1.0, 1.0, 1.3])
    more = seeds_needed(d.sd, d.mean) - 4
    assert in_words(d, d.p) == f"cannot tell: about {more} more seeds would be needed"


def test_only_equal_seeds_are_compared_whatever_their_order():
    def results(name, losses):
        return [{"variant": name, "seeds": [s, s], "held_out": loss} for s, loss in losses.items()]

    rows = compare(
        results("idea", {3: 1.0, 0: 2.0, 1: 3.0, 7: 99.0}) + results("baseline", {0: 2.5, 1: 3.2, 3: 1.1})
    )
    assert [row.name for row in rows] == ["baseline", "idea"]
    assert rows[1].difference.n == 3 and abs(rows[1].difference.mean - (-0.5 - 0.2 - 0.1) / 3) < 1e-12
    assert rows[1].verdict in table(rows)
    with pytest.raises(ValueError, match="no result is called 'baseline'; there are idea"):
        compare(results("idea", {0: 1.0}))


# ---------------------------------------------------------------- variants and budgets


def test_a_variant_changes_what_it_says_and_nothing_else():
    idea = Variant("idea", model={"position": "rope"}, train={"max_lr": 0.5})
    (model, train), (plain, settings) = idea.configs(BASE, 100, 3), BASE.configs(BASE, 100, 3)
    assert model == replace(plain, position="rope") and train == replace(settings, max_lr=0.5)
    assert (train.steps, train.seed) == (100, 3)


@pytest.mark.parametrize(
    "idea, words",
    (
        (Variant("x", model={"d_modle": 3}), "variant 'x': .*d_modle"),
        (Variant("x", model={"n_heads": 3}), "variant 'x': d_model=8 is not divisible by n_heads=3"),
        (Variant("x", train={"max_lr": -1}), "variant 'x': max_lr=-1"),
        (Variant("x", train={"steps": 6}), "variant 'x': steps and seed come from the budget"),
        (Variant("x", model={"context_length": 16}), "'x': context_length=16, and the data has 8"),
        (Variant("x", train={"warmup_steps": 6}), "variant 'x': warmup_steps=6 must be at most steps=5"),
    ),
)
def test_a_field_that_cannot_be_is_named(idea, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run([idea], [0], FEW, tmp_path, TINY, DATA)


def test_a_budget_is_one_of_three():
    for wrong in ({}, {"tokens": 5, "flops": 5}, {"seconds": -1}, {"tokens": "many"}):
        with pytest.raises(ValueError):
            Budget(**wrong)
    assert Budget(tokens=1000).steps(tokens=256) == 3 and Budget(tokens=5).steps(tokens=256) == 1
    assert Budget(flops=3e9).steps(tokens=1, flops=1e9) == 3
    assert Budget(seconds=0.3).steps(tokens=1, flops=1, seconds=0.1) == 3


def test_the_cost_of_a_step_is_three_forward_passes():
    idea = Variant("idea", model={"d_model": 16}, train={"grad_accum": 3}, cost=1.5)
    flops = 3 * 1.5 * sum(forward_flops(idea.configs(TINY, 5, 0)[0], 6, 8).values())
    assert cost_of_step(idea, TINY) == {"tokens": 48, "flops": flops}


def test_equal_budgets_are_spent(tmp_path):
    wide = Variant("wide", model={"d_model": 24})
    for budget in (Budget(tokens=200), Budget(flops=1e6)):
        for result in run([TINY, wide], [0], budget, tmp_path, TINY, DATA):
            ((name, amount),) = budget.given.items()
            one = result[name] / result["steps"]  # of a step: less than that is left
            assert amount - one < result[name] <= amount and len(result["losses"]) == result["steps"]


def test_seconds_become_steps_once_and_stay(tmp_path, monkeypatch):
    times = iter((0.1, 0.05, 0.02))
    monkeypatch.setattr(harness, "seconds_of_step", lambda *_: next(times))
    first = run([TINY], [0, 1], Budget(seconds=0.4), tmp_path, TINY, DATA)
    later = run([TINY], [0, 1, 2], Budget(seconds=0.4), tmp_path, TINY, DATA)
    assert [r["steps"] for r in first] == [4, 4] and [r["steps"] for r in later] == [4, 4, 4]


def test_the_time_of_a_step_is_measured_and_leaves_nothing_behind():
    before = train_variant(TINY, (0, 0), 5, DATA, TINY)["held_out"]
    assert 0 < harness.seconds_of_step(TINY, TINY, DATA[0]) < 5
    assert train_variant(TINY, (0, 0), 5, DATA, TINY)["held_out"] == before


def test_the_two_seeds_are_apart():
    def weights(seeds):
        state, config = start_variant(TINY, TINY, 5, seeds)
        return torch.cat([p.flatten() for p in state.model.parameters()]), config.seed

    assert torch.equal(weights((1, 2))[0], weights((1, 3))[0]) and weights((1, 3))[1] == 3
    assert not torch.equal(weights((1, 2))[0], weights((2, 2))[0])


def test_a_training_that_diverges_is_a_result(tmp_path):
    wild = Variant("wild", train={"max_lr": 1e30})
    results = run([TINY, wild], [0, 1], FEW, tmp_path, TINY, DATA)
    assert [math.isinf(r["held_out"]) for r in results] == [False, True] * 2
    assert run([wild], [0], FEW, tmp_path, TINY, DATA)[0]["held_out"] == math.inf  # read from disk
    assert compare(results)[1].verdict == "cannot tell: a training diverged"


# ---------------------------------------------------------------- what a result depends on


def scaled(factor):
    def change(model):
        model.embedding.token.weight.data.mul_(factor)

    return change


def key(variant, seeds=(0, 0), budget=FEW, data=DATA, base=TINY):
    return key_of(settings_of(variant, seeds, budget, data, base))


def test_everything_that_matters_is_in_the_key_and_the_name_is_not():
    keys = [
        key(TINY),
        key(TINY, (0, 1)),
        key(TINY, (1, 0)),
        key(TINY, budget=Budget(tokens=81)),
        key(TINY, budget=Budget(flops=80)),
        key(TINY, data=(DATA[0], DATA[0])),
        key(TINY, data=(DATA[1], DATA[0])),
        key(Variant("baseline", model={"n_layers": 2})),
        key(Variant("baseline", train={"max_lr": 0.5})),
        key(Variant("baseline", version="2")),
        key(Variant("baseline", cost=2.0)),
        key(Variant("baseline", change=scaled(1.0))),
        key(Variant("baseline", change=scaled(2.0))),
        key(Variant("baseline", change=lambda model: None)),
        key(Variant("baseline", change=lambda model: model.eval() and None)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(Variant("other name")) == key(TINY) == key(Variant("x", model={"n_layers": 1}))
    assert key(Variant("a", change=scaled(2.0))) == key(Variant("b", change=scaled(2.0)))


def test_classes_defaults_and_inner_functions_count():
    def one(model, by=1.0):
        return [x for x in (1, 2)]

    def two(model, by=2.0):
        return [x for x in (1, 2)]

    def three(model, by=1.0):
        return [x + 1 for x in (1, 2)]

    class Four:
        def forward(self):
            return 1

    class Five:
        def forward(self):
            return 2

    class Six:
        by = 1.0

    class Seven:
        by = 2.0

    def eight(model, *, by=1.0):
        return by

    def nine(model, *, by=2.0):
        return by

    def encloses(table):
        return lambda model: table

    ten, eleven = torch.zeros(5000), torch.zeros(5000)
    eleven[2500] = 1.0  # which a printed tensor of this size leaves out
    made = [encloses(ten), encloses(eleven), *(functools.partial(one, by=by) for by in (3.0, 4.0))]
    things = [one, two, three, Four, Five, Six, Seven, eight, nine, *made]
    texts = [json.dumps(code_of(thing)) for thing in things]
    assert len(set(texts)) == len(things) and not any(" at 0x" in text for text in texts)


PROGRAM = """
import sys, json
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from appendix.f_ablations import harness
from appendix.f_ablations.harness import *
from ch05_training.data import TokenDataset
def tiny_text(seed, n):
    ids = torch.randint(16, (n,), generator=torch.Generator().manual_seed(seed))
    return TokenDataset(ids, 8, n_bytes=2 * n)
DATA = (tiny_text(0, 400), tiny_text(1, 60))
TINY = Variant("baseline", model={model!r}, train={train!r})
def change(model):
    assert "a" in {{"a", "b", "c", "d"}}
trained = harness.train_variant
def slowly(*arguments):
    import time
    print("training", flush=True)
    time.sleep({pause})
    return trained(*arguments)
harness.train_variant = slowly
print("ready", flush=True)
results = run([TINY, Variant("changed", change=change)], range(4), Budget(tokens=80), sys.argv[1], TINY, DATA)
print(json.dumps([r["held_out"] for r in results]))
"""


def program(folder, pause, hash_seed):
    source = PROGRAM.format(root=str(ROOT), model=TINY.model, train=TINY.train, pause=pause)
    env = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    return subprocess.Popen([sys.executable, "-c", source, str(folder)], **pipes)


def test_a_killed_run_goes_on_and_two_processes_share_the_work(tmp_path):
    first = program(tmp_path, pause=0.3, hash_seed=1)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert 2 <= len(kept) < 8
    # with other hash seeds the keys must be the same; the two take what is missing, each training once
    both = [program(tmp_path, pause=0.3, hash_seed=seed) for seed in (2, 3)]
    said = [process.communicate(timeout=240)[0].splitlines() for process in both]
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert len(list(tmp_path.glob("*.json"))) == 8
    assert sum(lines.count("training") for lines in said) == 8 - len(kept)
    assert said[0][-1] == said[1][-1] and len(json.loads(said[0][-1])) == 8
    assert json.loads(said[0][-1])[::2] == json.loads(said[0][-1])[1::2]  # the change changes nothing


# ---------------------------------------------------------------- results on disk


def count_trainings(monkeypatch):
    calls, real = [], harness.train_variant
    monkeypatch.setattr(
        harness, "train_variant", lambda *arguments: calls.append(arguments[0].name) or real(*arguments)
    )
    return calls


def test_what_is_finished_is_not_trained_again(tmp_path, monkeypatch):
    calls = count_trainings(monkeypatch)
    first = run([TINY, Variant("wide", model={"d_model": 16})], [0, 1], FEW, tmp_path, TINY, DATA)
    assert len(calls) == 4
    again = run([TINY, Variant("renamed", model={"d_model": 16})], [0, 1, 2], FEW, tmp_path, TINY, DATA)
    assert calls[4:] == ["baseline", "renamed"]
    assert [r["variant"] for r in again] == ["baseline", "renamed"] * 3
    assert [r["held_out"] for r in again[:4]] == [r["held_out"] for r in first]
    run([Variant("wide", model={"d_model": 24})], [0], FEW, tmp_path, TINY, DATA)
    assert calls[6:] == ["wide"]  # the name is the same, and the settings are not


def damage(path, how):
    text = path.read_bytes()
    if how == "another's name":
        other = next(one for one in path.parent.glob("*.json") if one != path)
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(
            {"half": text[: len(text) // 2], "empty": b"", "a list": b"[1]", "no text": b"\xff"}[how]
        )


@pytest.mark.parametrize("how", ("half", "empty", "a list", "no text", "another's name"))
def test_a_damaged_result_is_named_and_trained_again(tmp_path, monkeypatch, capsys, how):
    first = run([TINY], [0, 1], FEW, tmp_path, TINY, DATA)
    path = tmp_path / f"{key(TINY)}.json"
    damage(path, how)
    calls = count_trainings(monkeypatch)
    again = run([TINY], [0, 1], FEW, tmp_path, TINY, DATA)
    assert [r["held_out"] for r in again] == [r["held_out"] for r in first] and len(calls) == 1
    assert f"{path.name} is damaged" in capsys.readouterr().out
    assert harness.read_result(path)["held_out"] == first[0]["held_out"]


def test_two_variants_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two variants are called 'baseline'"):
        run([TINY, Variant("baseline", model={"d_model": 16})], [0], FEW, tmp_path, TINY, DATA)


def test_ablate_compares_with_the_base(tmp_path, capsys):
    wide = Variant("wide", model={"d_model": 16})
    rows = ablate([wide], [0, 1, 2], FEW, tmp_path, replace(TINY, name="mine"), DATA)
    assert [row.name for row in rows] == ["baseline", "wide"] and table(rows) in capsys.readouterr().out


# ---------------------------------------------------------------- ideas


@pytest.fixture(scope="module")
def idea_rows(tmp_path_factory):
    """{idea: its Row} of the four ideas, on a small model, under seeds that the notebook never used."""
    folder, rows = tmp_path_factory.mktemp("ideas"), {}
    base = replace(
        BASE, model=BASE.model | {"d_model": 16, "n_heads": 1}, train=BASE.train | {"warmup_steps": 20}
    )
    data = small_data(32, 512)[1:]
    for name in ("same", "nothing", "helps", "hurts"):
        idea = load_idea(IDEAS / f"{name}.py")
        results = run(
            [replace(base, name="baseline"), idea], range(20, 24), Budget(tokens=20_000), folder, base, data
        )
        rows[name] = compare(results)[1]
    return rows


def test_the_verdicts_on_the_ideas_of_the_course(idea_rows):
    assert idea_rows["same"].verdict == "no difference: the same losses"
    assert idea_rows["nothing"].difference.sd > 0
    assert idea_rows["nothing"].verdict.startswith("cannot tell")
    assert idea_rows["helps"].verdict == "helps"
    assert idea_rows["hurts"].verdict == "hurts"


HEAD = "import torch, random\nfrom torch import nn\nfrom appendix.f_ablations.harness import Variant\n"
MODULE = """class M(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, ids):
        y = self.model(ids)
        return {}
IDEA = Variant('x', change=M)
"""
CHANGE = """def change(model):
    {}
IDEA = Variant('x', change=change)
"""
FAULTS = (
    ("def change(model:\n", "line 4: SyntaxError"),
    ("x = 1 / 0\n", "line 4: ZeroDivisionError"),
    ("x = 1\n", "has no IDEA; an idea file ends with IDEA = Variant"),
    ("IDEA = lambda model: model\n", "IDEA in .* is a function; an idea file ends with"),
    ("IDEA = Variant('baseline')\n", "is called 'baseline', as what it is compared with; rename it"),
    ("IDEA = Variant('x', model={'d_modle': 3})\n", "variant 'x': .*d_modle"),
    ("IDEA = Variant('x', model={'n_heads': 3})\n", "d_model=8 is not divisible by n_heads=3"),
    ("IDEA = Variant('x', change=lambda model: model.blocks)\n", "the idea 'x' does not run"),
    (CHANGE.format("model.nothing.here = 1"), "does not run, line 5"),
    (CHANGE.format("return model.lm_head.weight"), "return an nn.Module or nothing, not a Parameter"),
    (CHANGE.format("model.requires_grad_(False)"), "the idea 'x' cannot be trained: RuntimeError: element 0"),
    (MODULE.format("y + torch.randn_like(y)"), "draws random numbers when it is measured"),
    ("IDEA = Variant('x', model={'vocab_size': 8})\n", "the idea 'x' does not run: IndexError"),
    ("IDEA = Variant('x', train={'seed': 8})\n", "steps and seed come from"),
    (
        CHANGE.format("model.lm_head.weight.data.mul_(random.random())"),
        "other weights each time under the same",
    ),
    (MODULE.format("y[:, :, :3]"), r"must return logits of shape \(2, 8, 16\), and returns \(2, 8, 3\)"),
    (MODULE.format("[1]"), "and returns list"),
    (MODULE.format("y + y.mean(1, keepdim=True)"), "looks at the future"),
)


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_fault_of_an_idea_file_is_one_clear_sentence(tmp_path, number):
    text, words = FAULTS[number]
    path = tmp_path / "idea.py"
    path.write_text(HEAD + text)
    with pytest.raises(BadIdea, match=words) as caught:
        check_idea(load_idea(path), TINY, path)
    assert "\n" not in str(caught.value)


def test_good_ideas_pass_the_check():
    base, paths = replace(TINY, model=TINY.model | {"n_layers": 2}), sorted(IDEAS.glob("*.py"))
    assert [check_idea(load_idea(path), base, path) for path in paths] == [None] * 4


def test_an_idea_that_was_edited_is_trained_again(tmp_path, monkeypatch):
    path, folder = tmp_path / "idea.py", tmp_path / "results"
    calls = count_trainings(monkeypatch)
    for factor in (1.0, 1.0, 2.0):
        helper = f"def helper(model):\n    model.lm_head.weight.data.mul_({factor})\n"
        path.write_text(HEAD + helper + CHANGE.format("helper(model)").replace("'x'", "'mine'"))
        rows = run_idea(path, 2, FEW, folder, TINY, DATA)
    assert calls == ["baseline", "mine"] * 2 + ["mine"] * 2 and rows[1].name == "mine"


def test_the_command_tells_and_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(try_idea, "run_idea", lambda path, seeds, budget, folder: rows)
    rows = compare(
        [{"variant": v, "seeds": [s, s], "held_out": 1.0 + s} for v in ("baseline", "x") for s in (0, 1)]
    )
    try_idea.command_line([str(IDEAS / "same.py"), "--seeds", "2", "--flops", "1e9"])
    assert capsys.readouterr().out.endswith("x: no difference: the same losses\n")
    monkeypatch.undo()
    for arguments, words in (
        (["nowhere.py"], "nowhere.py cannot be read"),
        ([str(IDEAS / "same.py"), "--seeds", "0"], "--seeds 0 must be at least 1"),
        ([str(IDEAS / "same.py"), "--tokens", "5", "--flops", "5"], "a budget is tokens, flops or seconds"),
        ([str(IDEAS / "same.py"), "--tokens", "0"], "tokens=0.0 must be above 0"),
    ):
        with pytest.raises(SystemExit) as caught:
            try_idea.command_line(arguments)
        said = capsys.readouterr().err
        assert caught.value.code == 2 and words in said and said.count("\n") == 1
