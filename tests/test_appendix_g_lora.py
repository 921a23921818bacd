"""Appendix G, LoRA and classification: equal to the written formula, in float64, with gradients."""

import copy
import random

import pytest
import torch
from torch import nn

from appendix.g_finetuning.classifier import Classifier, final_vectors, last_real, pad_rows, wilson
from appendix.g_finetuning.lora import (
    LoRALinear,
    add_lora,
    layers_of,
    load_adapter,
    merge_lora,
    save_adapter,
)
from appendix.g_finetuning.supervised import answer_example, finetune, pad_examples, score_answers
from ch04_transformer.transformer import GPT, GPTConfig, count_parameters
from ch05_training.config import TrainConfig
from ch05_training.optimization import AdamW, cross_entropy
from ch06_inference.generation import generate

SIZES = dict(vocab_size=40, context_length=16, d_model=16, n_heads=4, n_layers=2)
GQA = GPTConfig(n_kv_heads=2, norm="rmsnorm", activation="swiglu", position="rope", **SIZES)
PLAIN = GPTConfig(bias=True, tie_weights=False, **SIZES)
EVERY = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
EXAMPLES = [answer_example([1, 2, 3, n], [n + 1, 7, 0]) for n in range(4, 20)]
CONFIG = TrainConfig(steps=8, batch_size=4, max_lr=1e-2, warmup_steps=1, device="cpu")


def stirred(model):
    """The model with random numbers in place of B's zeros."""
    for layer in layers_of(model, LoRALinear).values():
        nn.init.normal_(layer.B, std=0.3)
    return model


# ---------------------------------------------------------------- one layer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (3, 6.0), (8, 2.0)])
def test_the_layer_is_the_written_formula(bias, rank, alpha):
    linear = nn.Linear(7, 5, bias=bias, dtype=torch.float64)
    layer = LoRALinear(linear, rank, alpha)
    nn.init.normal_(layer.B)
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    W, A, B = linear.weight, layer.A, layer.B
    formula = x @ (W + alpha / rank * B @ A).T + (linear.bias if bias else 0.0)  # (2, 3, 5)
    assert torch.allclose(layer(x), formula, atol=1e-12)
    direction = torch.randn_like(formula)
    ours = torch.autograd.grad((layer(x) * direction).sum(), (A, B))
    theirs = torch.autograd.grad((formula * direction).sum(), (A, B))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


def test_the_first_numbers_change_nothing_and_have_the_papers_sizes():
    linear = nn.Linear(400, 300)
    layer = LoRALinear(linear, 16, 32.0)
    x = torch.randn(4, 400)
    assert torch.equal(layer(x), linear(x)) and torch.equal(layer.weight, linear.weight)
    assert not layer.B.any() and layer.A.shape == (16, 400) and layer.B.shape == (300, 16)
    assert abs(layer.A.std().item() - 400**-0.5) < 0.002 and abs(layer.A.mean().item()) < 0.003


def test_only_the_scale_times_the_product_counts():
    layer = LoRALinear(nn.Linear(6, 6), 2, 8.0)
    nn.init.normal_(layer.B)
    other = LoRALinear(layer.linear, 2, 2.0)
    other.A.data, other.B.data = layer.A.data, 4 * layer.B.data
    x = torch.randn(3, 6)
    assert torch.allclose(layer(x), other(x), atol=1e-5)


# ---------------------------------------------------------------- in a model


@pytest.mark.parametrize("config", [GQA, PLAIN], ids=["gqa, tied", "plain, untied"])
def test_a_model_starts_as_it_was_and_merged_is_unmerged(config):
    names = EVERY if config is GQA else ("q_proj", "up_proj", "lm_head")
    token_ids = torch.randint(40, (2, 9))
    model = GPT(config).double()
    before = model(token_ids)
    add_lora(model, 3, 6.0, names)
    assert torch.equal(model(token_ids), before)
    n_layers = 2 * len([name for name in names if name != "lm_head"]) + ("lm_head" in names)
    assert len(layers_of(model, LoRALinear)) == n_layers
    unmerged = stirred(model)(token_ids)
    assert (unmerged - before).abs().max() > 0.01
    merged = merge_lora(model)(token_ids)
    assert torch.allclose(merged, unmerged, atol=1e-12)
    assert not layers_of(model, LoRALinear)


def test_merged_is_unmerged_in_float32_but_for_rounding():
    model, token_ids = stirred(add_lora(GPT(GQA), 4, 8.0, EVERY)), torch.randint(40, (2, 16))
    unmerged = model(token_ids)
    assert torch.allclose(merge_lora(model)(token_ids), unmerged, atol=1e-5)


def test_a_tied_embedding_stays_what_it_was():
    model = GPT(GQA).double()
    embedding, token_ids = model.embedding.token.weight.detach().clone(), torch.randint(40, (2, 9))
    stirred(add_lora(model, 2, 4.0, ("lm_head",)))
    unmerged = model(token_ids)
    merge_lora(model)
    assert torch.equal(model.embedding.token.weight, embedding)
    assert not torch.equal(model.lm_head.weight, embedding)
    assert torch.allclose(model(token_ids), unmerged, atol=1e-12)


def test_only_a_and_b_are_trained():
    model = add_lora(GPT(GQA), 3, 6.0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    state, losses = finetune(model, EXAMPLES, CONFIG)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if name.endswith((".A", ".B"))}
    assert {p for p in state.optimizer.state} == {p for p in model.parameters() if p.requires_grad}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * 3 * ((16 + 16) + (16 + 8))  # two blocks, rank 3: q is 16 to 16, v 16 to 8
    assert count_parameters(model) == count_parameters(GPT(GQA)) + trained
    assert losses[-1] < losses[0]


def test_a_has_no_gradient_at_the_first_step_and_b_has():
    model = add_lora(GPT(GQA), 3, 6.0)
    inputs, targets = pad_examples(EXAMPLES[:4])
    logits = model(inputs)
    nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    for layer in layers_of(model, LoRALinear).values():
        assert not layer.A.grad.any() and layer.B.grad.any()
        assert layer.linear.weight.grad is None


def test_full_rank_can_reach_any_matrix():
    linear, wanted = nn.Linear(5, 4, bias=False, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    layer = LoRALinear(linear, 4, 4.0)
    U, S, Vh = torch.linalg.svd(wanted - linear.weight.detach(), full_matrices=False)
    layer.B.data, layer.A.data = U * S, Vh
    assert torch.allclose(layer.weight, wanted, atol=1e-12)


def test_a_model_with_adapters_generates():
    model = stirred(add_lora(GPT(GQA), 3, 6.0, (*EVERY, "lm_head"))).eval()
    prompt = torch.randint(40, (2, 4))
    with_cache, without = (generate(model, prompt, 6, temperature=0, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(names=("q_proj", "query")), "no linear layer is named query; choose among .*down_proj.*v_proj"),
        (dict(names=("norm1",)), "no linear layer is named norm1"),
        (dict(rank=0), "rank=0 must be a whole number of at least 1"),
        (dict(rank=2.0), "rank=2.0 must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(options, words):
    model = GPT(GQA)
    with pytest.raises(ValueError, match=words):
        add_lora(model, **options)
    assert not layers_of(model, LoRALinear) and all(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------- on disk


def test_an_adapter_is_saved_and_loaded_alone(tmp_path):
    base = GPT(GQA)
    model = stirred(add_lora(copy.deepcopy(base), 3, 5.0, ("q_proj", "down_proj")))
    save_adapter(tmp_path / "adapter.safetensors", model)
    again = load_adapter(tmp_path / "adapter.safetensors", copy.deepcopy(base))
    token_ids = torch.randint(40, (2, 9))
    assert torch.equal(again(token_ids), model(token_ids))
    numbers = 2 * 3 * ((16 + 16) + (16 + 48))
    size = (tmp_path / "adapter.safetensors").stat().st_size
    assert 4 * numbers < size < 4 * numbers + 4000
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


def test_an_adapter_of_another_model_is_refused_and_changes_nothing(tmp_path):
    path, base = tmp_path / "adapter.safetensors", GPT(GQA)
    save_adapter(path, add_lora(copy.deepcopy(base), 3))
    longer = GPTConfig(**{**GQA.__dict__, "n_layers": 3})
    wider = GPTConfig(**{**GQA.__dict__, "n_kv_heads": 4})
    others = [GPT(GQA), GPT(longer), GPT(wider), add_lora(copy.deepcopy(base), 3)]
    for other in others:
        before = {name: p.detach().clone() for name, p in other.named_parameters()}
        with pytest.raises(ValueError, match="was trained for another model"):
            load_adapter(path, other)
        after = dict(other.named_parameters())
        assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_adapter(path, base)


def test_a_file_without_adapters_is_refused(tmp_path):
    path = tmp_path / "none.safetensors"
    save_adapter(path, merge_lora(add_lora(GPT(GQA), 3)))  # merged first: nothing is left to save
    with pytest.raises(ValueError, match="was trained for another model"):
        load_adapter(path, GPT(GQA))


def test_an_adapter_may_be_loaded_in_sixteen_bits(tmp_path):
    base = GPT(GPTConfig(**{**GQA.__dict__, "d_model": 96}))
    save_adapter(tmp_path / "a.safetensors", stirred(add_lora(copy.deepcopy(base), 3)))
    model = load_adapter(tmp_path / "a.safetensors", base.bfloat16())
    assert {layer.A.dtype for layer in layers_of(model, LoRALinear).values()} == {torch.bfloat16}


# ---------------------------------------------------------------- what the notebook claims, on another seed


def test_adapters_want_the_larger_rate():
    torch.manual_seed(5)
    base = GPT(GQA)
    pairs = [answer_example([a, b], [(a + b) % 40, 0]) for a in range(3, 13) for b in range(3, 13)]
    base_config = TrainConfig(steps=60, batch_size=16, max_lr=1e-2, warmup_steps=1, device="cpu", seed=5)
    finetune(base, [answer_example([a, b], [b, a]) for a in range(3, 13) for b in range(3, 13)], base_config)

    def loss(rate, rank):
        model = copy.deepcopy(base)
        if rank:
            add_lora(model, rank, 2.0 * rank, EVERY)
        settings = dict(warmup_steps=1, weight_decay=0.0, device="cpu", seed=5)
        finetune(model, pairs, TrainConfig(steps=40, batch_size=16, max_lr=rate, **settings))
        return score_answers(model, pairs).losses.mean().item()

    small, large = loss(1e-3, 4), loss(1e-2, 4)
    assert large < small - 0.1 and loss(1e-3, None) < small


# ---------------------------------------------------------------- a classifier


def test_the_vectors_are_what_the_output_layer_reads():
    for config in (GQA, PLAIN):
        model, token_ids = GPT(config).double(), torch.randint(40, (2, 9))
        assert torch.allclose(model.lm_head(final_vectors(model, token_ids)), model(token_ids), atol=1e-12)


def test_the_last_real_token_row_by_row():
    vectors = torch.randn(5, 7, 3)
    lengths = torch.tensor([1, 7, 3, 6, 2])
    expected = torch.stack([row[n - 1] for row, n in zip(vectors, lengths.tolist(), strict=True)])
    assert torch.equal(last_real(vectors, lengths), expected)
    token_ids, found = pad_rows([[4, 5], [6], [7, 8, 9]], pad_id=1)
    assert token_ids.tolist() == [[4, 5, 1], [6, 1, 1], [7, 8, 9]] and found.tolist() == [2, 1, 3]


def test_a_row_without_tokens_has_no_last_one():
    with pytest.raises(ValueError, match="row 1 has no token"):
        pad_rows([[5, 6], [], [7]])


@pytest.mark.parametrize("pad_id", [0, 39])
def test_a_row_has_the_same_result_and_gradient_alone_and_in_company(pad_id):
    model = Classifier(GPT(GQA), 3).double()
    nn.init.normal_(model.head.weight)
    rows = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    together = model(*pad_rows(rows, pad_id))
    alone = torch.cat([model(*pad_rows([row])) for row in rows])
    assert torch.allclose(together, alone, atol=1e-12)
    labels = torch.tensor([0, 1, 2])
    parameters = list(model.parameters())
    gradients = [
        torch.autograd.grad(cross_entropy(scores, labels), parameters, materialize_grads=True)
        for scores in (together, alone)
    ]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_the_head_begins_with_all_classes_alike():
    scores = Classifier(GPT(GQA), 3)(*pad_rows([[5, 6, 7], [8]]))
    assert scores.shape == (2, 3) and not scores.any()


@pytest.mark.parametrize("rank", [None, 4])
def test_a_classifier_learns_what_only_the_last_real_token_knows(rank):
    draw = random.Random(7)
    rows = [[draw.randrange(40) for _ in range(draw.randrange(2, 9))] for _ in range(300)]
    labels = torch.tensor([row[-1] % 3 for row in rows])
    body = GPT(GQA)
    model = Classifier(body if rank is None else add_lora(body, rank, 8.0, EVERY), 3)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    for step in range(60):
        batch = range(16 * step % 192, 16 * step % 192 + 16)
        loss = cross_entropy(model(*pad_rows([rows[n] for n in batch])), labels[list(batch)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (model(*pad_rows(rows[208:])).argmax(dim=-1) == labels[208:]).float().mean()
    assert right > 0.8


def test_wilsons_interval_against_its_definition():
    for right, n in ((0, 10), (3, 10), (10, 10), (80, 100), (499, 1000)):
        low, high = wilson(right, n)
        assert 0 <= low <= right / n <= high <= 1
        for p in (low, high):  # the accuracies from which the share is just 1.96 deviations away
            if 0 < p < 1:
                assert abs(right / n - p) == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5, abs=1e-9)
    assert wilson(10, 10)[0] == pytest.approx(1 / (1 + 1.96**2 / 10))


def test_wilsons_interval_holds_the_truth_as_often_as_it_says():
    draws = torch.distributions.Binomial(100, torch.tensor(0.8)).sample((4000,))
    held = sum(low <= 0.8 <= high for low, high in (wilson(right, 100) for right in draws.tolist()))
    assert 0.92 < held / 4000 < 0.97
