"""Appendix B: the tools see what is there, say nothing of right models, and leave every model as found."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from appendix.b_debugging.batches import shared_ngrams, shift_agreement, show_batch
from appendix.b_debugging.probes import (
    batch_dependence,
    causality_leak,
    descend,
    influence,
    lr_range_test,
    maps_as_called,
    mode_changes,
    only_block,
    other_ids,
    overfit_one_batch,
    position_sensitivity,
    relative_change,
    vital_signs,
)
from appendix.b_debugging.watching import (
    first_tensor,
    gradient_flow,
    left_as_found,
    logits_of,
    record_of,
    watch,
    watch_table,
)
from ch03_attention.attention import causal_mask
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.optimization import AdamW, clip_grad_norm_, cross_entropy

V, T = 61, 16
LLAMA = dict(n_kv_heads=2, norm="rmsnorm", activation="swiglu", position="rope")


def course(model_class=GPT, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=V, context_length=T, d_model=32, n_heads=4, n_layers=2)
    return model_class(GPTConfig(**sizes | changes))


def gpt2():
    torch.manual_seed(0)
    sizes = dict(vocab_size=V, n_positions=T, n_embd=32, n_head=4, n_layer=2)
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def llama(**changes):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
        intermediate_size=80, max_position_embeddings=T, bos_token_id=0, eos_token_id=0, **changes,
    )  # fmt: skip
    return LlamaForCausalLM(config)


RIGHT = {
    "learned": course,
    "sinusoidal, post, dropout": lambda: course(position="sinusoidal", norm_position="post", dropout=0.1),
    "llama-like": lambda: course(**LLAMA),
    "eager, biases, untied": lambda: course(backend="eager", bias=True, tie_weights=False),
    "float64": lambda: course(**LLAMA).double(),
    "bfloat16": lambda: course(**LLAMA).bfloat16(),
    "GPT-2": gpt2,
    "Llama": llama,
    "Llama, eager": lambda: llama(attn_implementation="eager"),
}
IDS = torch.randint(V, (4, T + 1), generator=torch.Generator().manual_seed(0))
INPUTS, TARGETS = IDS[:, :-1], IDS[:, 1:]
BATCH = INPUTS, TARGETS


class Masked(GPT):
    """A GPT with another mask."""

    mask_of = staticmethod(causal_mask)

    def forward(self, token_ids, **options):
        return super().forward(token_ids, mask=self.mask_of(token_ids.size(1))[None, None], **options)


def masked(mask_of, **changes):
    model = course(Masked, **changes)
    model.mask_of = mask_of
    return model


def too_far(n):
    return torch.ones(n, n, dtype=torch.bool).tril(1)


def itself_only(n):
    return torch.eye(n, dtype=torch.bool)


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


# ---------------------------------------------------------------- recording values


def test_a_record_is_what_can_be_counted_by_hand():
    record = record_of("x", "kind", torch.tensor([[1.0, 3.0], [0.0, math.inf]]))
    assert record.shape == (2, 2) and record.zeros == 0.25 and record.not_finite == 1
    assert math.isclose(record.mean, 4 / 3, rel_tol=1e-6)
    assert math.isclose(record.std, math.sqrt(14 / 9), rel_tol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_record_of_nothing_finite_of_whole_numbers_and_of_no_numbers():
    assert math.isnan(record_of("x", "kind", torch.full((2,), math.nan)).mean)
    assert record_of("x", "kind", torch.tensor([1, 3])).mean == 2.0
    assert record_of("x", "kind", torch.ones(0, 3)).zeros == 0.0


def test_half_precision_is_measured_in_float32():
    record = record_of("x", "kind", torch.full((100_000,), 1.0, dtype=torch.float16))
    assert record.mean == 1.0 and record.std == 0.0 and record.not_finite == 0


@pytest.mark.parametrize("name", RIGHT)
def test_watch_sees_every_module_and_the_model_last(name):
    model = RIGHT[name]()
    records = watch(model, INPUTS)
    assert all(record.not_finite == 0 for record in records)
    seen = {record.name for record in records}
    called = {
        name for name, module in model.named_modules() if name and not isinstance(module, nn.ModuleList)
    }
    called = {
        name for name in called if "attn_dropout" not in name and "rope" not in name
    }  # functions are used
    assert called <= seen and len(records) == len(seen)
    assert records[-1].name == "(the model)" and records[-1].shape == (4, T, V)
    with torch.no_grad():
        logits = logits_of(model.eval(), INPUTS)
    last = watch(model, INPUTS)[-1]
    assert math.isclose(last.std, logits.double().std(correction=0).item(), rel_tol=1e-3)
    lines = watch_table(records).splitlines()
    assert len(lines) == len(records) + 1 and all(r.name in line for r, line in zip(records, lines[1:]))


def test_the_first_line_that_is_not_finite_is_the_culprit():
    model = course()
    model.blocks[1].feed_forward.up_proj.weight.data[5, 7] = math.nan
    first = next(record for record in watch(model, INPUTS) if record.not_finite)
    assert first.name == "blocks.1.feed_forward.up_proj" and first.not_finite == INPUTS.numel()


def test_a_shared_module_has_a_line_for_each_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    assert [r.name for r in watch(Twice(), torch.ones(2, 3))] == ["layer", "layer", "(the model)"]


@dataclasses.dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, None),
        lambda x: [None, (x, x + 1)],
        lambda x: {"cache": None, "logits": x},
        lambda x: Output(None, x),
    ],
)
def test_a_tensor_is_found_in_whatever_a_module_returns(wrap):
    x = torch.ones(2)
    assert first_tensor(wrap(x)) is x


def test_what_holds_no_tensor_gives_none():
    assert all(first_tensor(nothing) is None for nothing in (None, (), "text", 3, [{}], Output(None, None)))


class Wrapped(nn.Module):
    """A course model whose output is something else."""

    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = course(), wrap

    def forward(self, token_ids):
        return self.wrap(self.inner(token_ids))


def test_logits_are_taken_out_of_tuples_dicts_and_objects():
    right = course()(INPUTS)
    for wrap in (lambda x: (x, None), lambda x: {"loss": 0, "logits": x}, lambda x: Output(None, x)):
        assert torch.equal(logits_of(Wrapped(wrap), INPUTS), right)


def test_logits_of_the_last_position_alone_are_refused():
    with pytest.raises(ValueError, match=r"expected logits \(B, T, V\) .* \(4, 16\), got \(4, 1, 61\)"):
        logits_of(Wrapped(lambda x: x[:, -1:]), INPUTS)
    with pytest.raises(ValueError, match="got str"):
        logits_of(Wrapped(lambda x: "no"), INPUTS)


class Stops(nn.Module):
    def forward(self, x):
        raise RuntimeError("stopped")


def test_a_forward_that_fails_leaves_no_hook_and_says_where_it_was():
    model = course()
    model.blocks[1].norm1 = Stops()
    with pytest.raises(RuntimeError, match="stopped") as caught:
        watch(model, INPUTS)
    assert caught.value.__notes__ == ["the last module that ended: blocks.0"]
    assert hooks_of(model) == 0 and model.training


# ---------------------------------------------------------------- leaving things as they were


@pytest.mark.parametrize("name", RIGHT)
def test_tools_leave_a_model_as_found(name):
    model = RIGHT[name]()
    list(model.modules())[3].eval()  # a mode that is not the same everywhere
    cross_entropy(logits_of(model, INPUTS), TARGETS).backward()
    gradients = [w.grad for w in model.parameters()]
    copies = [w.grad.clone() for w in model.parameters()]
    modes = [module.training for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    vital_signs(model, BATCH)
    influence(model, INPUTS[0])
    lr_range_test(model, lambda step: BATCH, steps=3)
    assert torch.equal(random_state, torch.get_rng_state())
    assert hooks_of(model) == 0
    assert modes == [module.training for module in model.modules()]
    assert all(w.grad is gradient for w, gradient in zip(model.parameters(), gradients))
    assert all(map(torch.equal, gradients, copies))
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_buffers_are_put_back_too():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = course(), nn.BatchNorm1d(V)

        def forward(self, token_ids):
            return self.norm(self.inner(token_ids).transpose(1, 2)).transpose(1, 2)

    model = Normed()
    before = model.norm.running_mean.clone()
    mode_changes(model, INPUTS)
    assert torch.equal(model.norm.running_mean, before) and model.norm.num_batches_tracked == 0


def test_watch_takes_a_model_without_parameters():
    assert [record.kind for record in watch(nn.Sequential(nn.ReLU()), torch.ones(2, 3))] == [
        "ReLU",
        "Sequential",
    ]


def no_positions():
    model = course(position="learned")
    nn.init.zeros_(model.embedding.position.weight)
    return model


def test_lists_inside_of_blocks_are_not_taken_for_the_blocks():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(8))

        def forward(self, x):
            return sum(expert(x) for expert in self.experts)

    model = no_positions()
    for block in model.blocks:
        block.feed_forward = Experts()
    assert position_sensitivity(model, INPUTS) < 1e-4


def test_the_order_is_asked_of_a_block_that_exists_and_of_tokens_that_can_move():
    model = course(**LLAMA)
    last, negative = (position_sensitivity(model, INPUTS, layer=layer) for layer in (1, -1))
    assert last == negative > 0.01
    for layer in (2, -3):
        with pytest.raises(IndexError, match=f"one of 2 blocks, got {layer}"):
            position_sensitivity(model, INPUTS, layer=layer)
    with pytest.raises(ValueError, match="3 tokens a row or more, whose order can change; got 2"):
        position_sensitivity(model, INPUTS[:, :2])


def test_what_fails_inside_is_put_back_as_well():
    model = course(dropout=0.5)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), left_as_found(model), only_block(model, 0):
        model.eval()
        torch.rand(3)
        raise ZeroDivisionError
    assert model.training and hooks_of(model) == 0 and torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("make", [lambda: course(**LLAMA), gpt2, llama])
def test_gradients_and_ratios_are_those_of_a_real_step(make):
    model = make().double().eval()
    flows = gradient_flow(model, BATCH)
    twin = copy.deepcopy(model)
    nn.functional.cross_entropy(logits_of(twin, INPUTS).flatten(0, 1), TARGETS.flatten()).backward()
    total = clip_grad_norm_(twin.parameters(), math.inf).item()
    torch.optim.AdamW(twin.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0).step()
    assert math.isclose(math.hypot(*(flow.gradient for flow in flows)), total, rel_tol=1e-9)
    for flow, (name, w), moved in zip(flows, model.named_parameters(), twin.parameters(), strict=True):
        assert flow.name == name and flow.shape == tuple(w.shape)
        assert math.isclose(flow.gradient, moved.grad.norm().item(), rel_tol=1e-9)
        if flow.weight:
            assert math.isclose(flow.ratio, ((moved - w).norm() / w.norm()).item(), rel_tol=1e-6)
        else:
            assert flow.ratio == math.inf  # a bias that starts at 0
        assert math.isclose(flow.unmoved, (moved == w).double().mean().item(), abs_tol=1e-6)


def test_a_frozen_parameter_has_no_gradient_and_does_not_move():
    model = course()
    model.blocks[0].attention.q_proj.weight.requires_grad_(False)
    still = [flow.name for flow in gradient_flow(model, BATCH) if flow.gradient is None]
    assert still == ["blocks.0.attention.q_proj.weight"]
    flow = next(f for f in gradient_flow(model, BATCH) if f.gradient is None)
    assert flow.ratio == 0.0 and flow.unmoved == 1.0


def test_the_run_goes_on_after_gradient_flow_as_if_nothing_had_been():
    def run(measured):
        model = course()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(5):
            losses += descend(model, optimizer, [BATCH])
            if measured:
                gradient_flow(model, BATCH, optimizer)
        return losses

    assert run(False) == run(True)


def test_an_optimizer_of_other_parameters_moves_nothing_and_is_put_back():
    model, other = course(), course(seed=1)
    optimizer = torch.optim.SGD(other.parameters(), lr=1.0)
    cross_entropy(other(INPUTS), TARGETS).backward()
    before = copy.deepcopy(other.state_dict())
    flows = gradient_flow(model, BATCH, optimizer)
    assert all(flow.unmoved == 1.0 and flow.gradient > 0 for flow in flows)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_weights_in_bfloat16_do_not_move_under_small_steps():
    shares = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = course(**LLAMA).to(dtype)
        optimizer = AdamW(list(model.parameters()), lr=1e-4, weight_decay=0.0)
        flows = {flow.name: flow.unmoved for flow in gradient_flow(model, BATCH, optimizer)}
        shares[dtype] = flows["blocks.0.norm1.weight"], flows["blocks.0.attention.q_proj.weight"]
    assert shares[torch.float32] == (0.0, 0.0)
    assert shares[torch.bfloat16][0] == 1.0 and shares[torch.bfloat16][1] > 0.3


# ---------------------------------------------------------------- probes


@pytest.mark.parametrize("name", RIGHT)
def test_probes_pass_right_models(name):
    model = RIGHT[name]()
    assert causality_leak(model, INPUTS) < 1e-4
    assert position_sensitivity(model, INPUTS) > 1e-3
    assert batch_dependence(model, INPUTS) < 1e-4
    assert mode_changes(model, INPUTS)["eval"] == 0.0
    assert overfit_one_batch(model, BATCH, steps=100)[-1] < 0.15
    map_of_influence = influence(model, INPUTS[0])
    assert map_of_influence.triu(1).max() < 1e-4 and map_of_influence.tril()[-1].min() > 0


class BatchMean(nn.Module):
    def forward(self, x):
        return x - x.mean(dim=0, keepdim=True)


class AlwaysDrops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.1)


def test_each_fault_is_seen_by_its_own_probe():
    probes = {
        "leak": lambda m: causality_leak(m, INPUTS) > 0.1,
        "no order": lambda m: position_sensitivity(m, INPUTS) < 1e-4,
        "rows": lambda m: batch_dependence(m, INPUTS) > 0.01,
        "mode": lambda m: mode_changes(m, INPUTS)["eval"] > 0.01,
    }
    flat, mixing, dropping = course(), course(), course(**LLAMA)
    nn.init.zeros_(flat.embedding.position.weight)
    mixing.blocks[0].norm1 = BatchMean()
    dropping.blocks[0].norm1 = AlwaysDrops()
    faults = {"leak": masked(too_far), "no order": flat, "rows": mixing, "mode": dropping}
    for fault, model in faults.items():
        assert probes[fault](model), fault
    for name, model in {"right": course(), "flat": flat, "leak": masked(too_far)}.items():
        seen = {probe for probe, fires in probes.items() if fires(model)}
        assert seen == {"right": set(), "flat": {"no order"}, "leak": {"leak"}}[name]


def test_a_leak_at_the_very_end_is_found():
    def one_pair(n):  # only the last token but one sees the future
        mask = causal_mask(n)
        mask[n - 2, n - 1] = True
        return mask

    assert causality_leak(masked(one_pair), INPUTS) > 0.01


def test_a_blind_model_stops_at_what_one_token_can_tell():
    losses = overfit_one_batch(masked(itself_only, **LLAMA), BATCH, steps=150)
    counts = torch.zeros(V, V)
    counts.index_put_((INPUTS.flatten(), TARGETS.flatten()), torch.ones(INPUTS.numel()), accumulate=True)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    floor = -(counts * shares.clamp(min=1e-9).log()).sum().item() / INPUTS.numel()
    assert floor > 0.2 and floor - 1e-4 < losses[-1] < floor + 0.05
    assert len(losses) == 151 and overfit_one_batch(course(**LLAMA), BATCH, steps=150)[-1] < 0.05


def test_dropout_is_not_taken_for_a_leak():
    dropping = course(dropout=0.3)
    changed = torch.cat([INPUTS[:, :8], other_ids(INPUTS[:, 8:], V)], dim=1)
    assert relative_change(dropping(INPUTS)[:, :8], dropping(changed)[:, :8]) > 0.1
    assert causality_leak(dropping, INPUTS) == 0.0
    changes = mode_changes(dropping, INPUTS)
    assert changes["eval"] == 0.0 and changes["train"] > 0.1 and changes["eval to train"] > 0.1


def test_influence_shows_when_a_probe_has_nothing_to_see():
    silent = masked(too_far)
    nn.init.zeros_(silent.lm_head.weight)
    assert causality_leak(silent, INPUTS) == 0.0
    assert influence(silent, INPUTS[0]).max() == 0.0
    assert influence(masked(too_far), INPUTS[0]).diagonal().min() > 0.01


def test_influence_has_the_shape_of_the_mask():
    one_layer = masked(too_far, n_layers=1)
    assert torch.equal(influence(one_layer, INPUTS[0]) > 1e-6, too_far(T))
    assert torch.equal(influence(masked(itself_only), INPUTS[0]) > 1e-6, itself_only(T))


def test_a_model_that_is_not_finite_is_not_said_to_be_causal():
    model = course()
    model.blocks[0].norm1.weight.data[0] = math.nan
    assert math.isnan(causality_leak(model, INPUTS))


def test_one_token_can_leak_nothing():
    assert causality_leak(course(), INPUTS[:, :1]) == 0.0


def test_positions_are_probed_block_by_block():
    model = course(**LLAMA)
    model.blocks[1].attention.forward = lambda x, mask=None, cache=None, cos_sin=None: type(
        model.blocks[1].attention
    ).forward(model.blocks[1].attention, x, mask, cache, positions=torch.zeros(x.size(1), dtype=torch.long))
    assert position_sensitivity(model, INPUTS, layer=0) > 1e-3
    assert position_sensitivity(model, INPUTS, layer=1) < 1e-4


def test_a_causal_mask_alone_tells_two_blocks_of_the_order():
    flat = course()
    nn.init.zeros_(flat.embedding.position.weight)
    flat.eval()
    moved = torch.cat([INPUTS[:, :-1].flip(1), INPUTS[:, -1:]], dim=1)
    with torch.no_grad():
        assert relative_change(flat(INPUTS)[:, -1], flat(moved)[:, -1]) > 1e-3
    assert position_sensitivity(flat, INPUTS) < 1e-4


def test_other_ids_are_other_ids_and_the_same_each_time():
    others = other_ids(INPUTS, V)
    assert (others != INPUTS).all() and others.min() >= 0 and others.max() < V
    assert torch.equal(others, other_ids(INPUTS, V)) and not torch.equal(others, other_ids(INPUTS, V, seed=1))


def test_maps_as_called_show_the_mask_that_was_used():
    right, wrong = course(), masked(too_far)
    assert torch.allclose(maps_as_called(right, INPUTS), right.attention_weights(INPUTS), atol=1e-6)
    assert wrong.attention_weights(INPUTS).triu(1).max() == 0
    maps = maps_as_called(wrong, INPUTS)
    assert maps.shape == (2, 4, 4, T, T) and maps.triu(1).max() > 0.01 and hooks_of(wrong) == 0


def test_vital_signs_of_a_right_and_a_broken_model():
    right, broken = vital_signs(course(), BATCH), vital_signs(masked(too_far), BATCH)
    assert abs(right["loss"] - math.log(V)) < 0.4 and right["loss of a uniform guess"] == math.log(V)
    assert right["targets that are the next input"] == 1.0 and right["parameters without a gradient"] == 0
    assert right["leak from the future"] < 1e-4 < 0.1 < broken["leak from the future"]
    assert set(right) == set(broken) and all(math.isfinite(value) for value in right.values())


def test_vital_signs_of_a_model_that_gives_nan():
    model = course()
    model.lm_head.weight.data[:] = math.nan
    signs = vital_signs(model, BATCH)
    assert math.isnan(signs["loss"]) and math.isnan(signs["largest update / weight"])
    assert signs["values that are not finite"] > 0 and signs["loss of a uniform guess"] == math.log(V)


def test_vital_signs_take_the_vocabulary_from_the_logits():
    class Other(GPT):
        def forward(self, token_ids):
            return {"hidden": torch.zeros(*token_ids.shape, 7), "logits": super().forward(token_ids)}

    assert vital_signs(course(Other), BATCH)["loss of a uniform guess"] == math.log(V)


# ---------------------------------------------------------------- learning rate


def test_the_range_test_of_a_single_step():
    assert lr_range_test(course(), lambda step: BATCH, low=1e-4, steps=1)[0] == [1e-4]


def test_the_range_test_takes_the_rates_that_it_reports():
    model = course(**LLAMA)
    rates, losses = lr_range_test(model, lambda step: BATCH, low=1e-4, high=1e-2, steps=5)
    assert torch.allclose(torch.tensor(rates), torch.logspace(-4, -2, 5))
    optimizer, expected = AdamW(list(model.parameters()), lr=1.0, weight_decay=0.0), []
    for rate in rates:
        loss = cross_entropy(model(INPUTS), TARGETS)
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert expected == pytest.approx(losses, rel=1e-5)


def test_the_range_test_ends_early_when_the_loss_has_exploded():
    rates, losses = lr_range_test(course(**LLAMA), lambda step: BATCH, low=1e-3, high=1e3, steps=60)
    assert len(rates) == len(losses) < 60 and not losses[-1] < 2 * losses[0]
    assert all(loss < 2 * losses[0] for loss in losses[:-1])


# ---------------------------------------------------------------- batches


class Letters:
    def decode(self, ids):
        return "".join(chr(ord("a") + i) for i in ids)


def test_show_batch_lines_up_tokens_and_targets():
    text = show_batch(torch.tensor([[0, 1, 2]]), torch.tensor([[1, 2, -100]]), Letters())
    assert text.splitlines() == ["inputs  'a' 'b' 'c'      ", "targets 'b' 'c' (ignored)"]
    assert len(show_batch(INPUTS, TARGETS, Letters(), n_rows=3).splitlines()) == 6


@pytest.mark.parametrize("shift", [-1, 0, 1, 2])
def test_the_shift_of_targets_is_found(shift):
    row = torch.arange(40).repeat(2, 1)
    shares = shift_agreement(row[:, 4:20], row[:, 4 + shift : 20 + shift])
    assert shares[shift] == 1.0 and all(share == 0.0 for k, share in shares.items() if k != shift)


def test_ignored_targets_do_not_count_in_the_shift():
    targets = TARGETS.clone()
    targets[:, :5] = -100
    assert shift_agreement(INPUTS, targets)[1] == 1.0


def test_shared_ngrams_by_hand():
    seen, asked = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 4])
    assert shared_ngrams(seen, asked, n=2) == 0.5
    assert shared_ngrams(seen, asked, n=1) == 2 / 3
    assert shared_ngrams(seen, asked, n=3) == 0.0
    assert shared_ngrams(seen, asked, n=4) == 0.0  # asked has none
    assert shared_ngrams(torch.arange(100), torch.arange(20, 60), n=8) == 1.0
