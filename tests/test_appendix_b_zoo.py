"""Appendix B's zoo: every broken line is one line, has its symptom and is named; healthy models are not."""

import copy
import difflib
import inspect
import itertools
import re

import pytest
import torch

from appendix.b_debugging import diagnose as diagnosing
from appendix.b_debugging import zoo
from appendix.b_debugging.bugs import BUGS
from appendix.b_debugging.pairing import agreement, shift_faults
from appendix.b_debugging.specimens import HOMES, diff
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.optimization import AdamW, cross_entropy

diagnose = diagnosing.diagnose
NAMES = [bug.name for bug in BUGS]


def by_name(name):
    return next(bug for bug in BUGS if bug.name == name)


def names(findings):
    return [finding.name for finding in findings]


def course_batch(V=60, B=4, T=12, seed=0):
    ids = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def gpt(seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    return GPT(
        GPTConfig(**dict(vocab_size=60, context_length=64, d_model=32, n_heads=4, n_layers=2) | changes)
    ).to(dtype)


def trained(model, steps=15):
    optimizer = AdamW(list(model.parameters()), lr=3e-3)
    for step in range(steps):
        inputs, targets = course_batch(seed=step)
        optimizer.zero_grad()
        output = model(inputs)
        cross_entropy(getattr(output, "logits", output), targets).backward()
        optimizer.step()
    return model


# ---------------------------------------------------------------- the zoo


def test_the_zoo_is_large_enough():
    assert len(BUGS) >= 28 and len(set(NAMES)) == len(BUGS)
    assert sum(bug.family != "training" for bug in BUGS) >= 24
    assert {bug.family for bug in BUGS} == {"attention", "positions", "model", "data", "training"}


@pytest.mark.parametrize("name", NAMES)
def test_one_line_is_changed(name):
    bug = by_name(name)
    before = inspect.getsource(HOMES[bug.home])
    after = before.replace(bug.right, bug.broken)
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert before.count(bug.right) == 1
    assert [line[0] for line in lines] in (["-", "+"], ["-"]), lines
    assert diff(bug).count("\n") == len(lines) - 1


def test_a_part_that_is_not_there_once_is_refused():
    with pytest.raises(ValueError, match="expected once"):
        zoo.edited(HOMES["attention"], "no such line", "")
    with pytest.raises(ValueError, match="expected once"):
        zoo.edited(HOMES["attention"], "return", "yield")


def test_the_course_stays_as_it_is():
    inputs, _ = course_batch()
    before = gpt(backend="eager")(inputs)
    zoo.hunt(by_name("mask inverted"))
    assert torch.equal(before, gpt(backend="eager")(inputs))


def test_every_number_is_a_bug_and_zero_is_healthy():
    numbers = zoo.numbered()
    assert numbers[0] is None and zoo.reveal(0) == "nothing is broken"
    assert sorted(bug.name for bug in numbers.values() if bug) == sorted(NAMES)
    for number, bug in numbers.items():
        if bug:
            assert bug.name in zoo.reveal(number) and diff(bug) in zoo.reveal(number)


def healthy_twin(bug):
    """The healthy specimen that has a bug's configuration."""
    return (
        zoo.hunt(zoo.Bug(bug.name, "", "none", "", "", "", "", "", bug.config)) if bug.config else zoo.hunt(0)
    )


@pytest.mark.parametrize("name", NAMES)
def test_named_blind(name):
    model, batch, step = zoo.hunt(by_name(name))
    assert by_name(name).found_as in names(diagnose(model, batch, step=step, quiet=True))


def test_the_healthy_specimen_has_nothing():
    model, batch, step = zoo.hunt(0)
    assert diagnose(model, batch, step=step, quiet=True) == []


# ---------------------------------------------------------------- symptoms


def losses(name, steps):
    step = zoo.hunt(by_name(name) if name else 0).step
    torch.manual_seed(1)
    return [step() for _ in range(steps)]


@pytest.fixture(scope="module")
def healthy_run():
    return losses(None, 60)


@pytest.mark.parametrize(
    "name", ["mask inverted", "mask off by one", "targets not shifted", "targets shifted back"]
)
def test_loss_too_low(name, healthy_run):
    assert losses(name, 60)[-1]["loss"] < healthy_run[-1]["loss"] - 0.3


@pytest.mark.parametrize(
    "name", ["wrong sign", "optimizer of a copy", "softmax in the model", "weights of size 1"]
)
def test_loss_too_high(name, healthy_run):
    assert losses(name, 20)[-1]["loss"] > healthy_run[19]["loss"] + 0.3


@pytest.mark.parametrize(
    "name", ["values from keys", "out_proj dropped", "only queries rotated", "no activation"]
)
def test_loss_looks_right(name, healthy_run):
    assert abs(losses(name, 30)[-1]["loss"] - healthy_run[29]["loss"]) < 0.4


def test_gradients_pile_up(healthy_run):
    assert losses("zero_grad forgotten", 12)[-1]["grad_norm"] > 1.5 * healthy_run[11]["grad_norm"]


def test_the_gradient_is_as_large_as_there_are_micro_batches(healthy_run):
    assert losses("accumulation not divided", 1)[0]["grad_norm"] / healthy_run[0][
        "grad_norm"
    ] == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize(
    "name", [bug.name for bug in BUGS if bug.family in ("attention", "positions", "model")]
)
def test_something_is_different(name):
    """Logits, parameters, or gradients of a broken model are not those of the right one with that seed."""
    bug = by_name(name)
    broken = zoo.hunt(bug).model.eval()
    torch.manual_seed(0)
    right = GPT(broken.config).eval()
    ids = zoo.hunt(0).batch[0]
    if {n for n, _ in broken.named_parameters()} != {n for n, _ in right.named_parameters()}:
        return
    right.load_state_dict(broken.state_dict())
    if bug.name == "weights of size 1":
        assert broken.lm_head.weight.std() > 0.9
        return
    one, two = broken(ids), right(ids)
    one.sum().backward()
    two.sum().backward()
    pairs = [(p.grad, q.grad) for p, q in zip(broken.parameters(), right.parameters())]
    changed = any(
        (p is None) != (q is None) or (p is not None and not torch.allclose(p, q)) for p, q in pairs
    )
    assert changed or not torch.allclose(one, two, equal_nan=False)


# ---------------------------------------------------------------- healthy models

KINDS = list(
    itertools.product(
        ("learned", "sinusoidal", "rope"), ("layernorm", "rmsnorm"), ("pre", "post"), ("gelu", "swiglu")
    )
)


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_nothing_in_kinds_of_the_course(number):
    position, norm, place, activation = KINDS[number]
    model = gpt(
        seed=number,
        dtype=(torch.float32, torch.float64, torch.bfloat16)[number % 3],
        position=position,
        norm=norm,
        norm_position=place,
        activation=activation,
        tie_weights=number % 2 == 0,
        bias=number % 4 < 2,
        n_kv_heads=(None, 2)[number // 2 % 2],
        backend=("sdpa", "eager")[number // 3 % 2],
        dropout=0.1 * (number % 2),
        n_layers=1 + number % 2,
    )
    B, T = ((1, 2), (8, 64), (4, 12), (1, 16), (8, 3))[number % 5]
    assert diagnose(model, course_batch(B=B, T=T, seed=number), quiet=True) == []


@pytest.mark.parametrize("seed", range(3))
def test_nothing_in_trained_models(seed):
    model = trained(gpt(seed, position=("learned", "sinusoidal", "rope")[seed]))
    assert diagnose(model, course_batch(seed=seed), quiet=True) == []


@pytest.mark.parametrize(
    "name", ["gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt2-tiny", "llama-like"]
)
def test_nothing_in_presets(name):
    n_heads = GPTConfig.preset(name).n_heads
    smaller = dict(vocab_size=60, context_length=64, d_model=8 * n_heads, n_layers=2, d_ff=64)
    assert diagnose(GPT(GPTConfig.preset(name, **smaller)), course_batch(), quiet=True) == []


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "GPTNeoXForCausalLM"]
)
def test_nothing_in_transformers(name, attention):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, name)
    sizes = dict(vocab_size=60, bos_token_id=0, eos_token_id=1, attn_implementation=attention)
    if name.startswith("GPT2"):
        sizes |= dict(n_embd=32, n_layer=2, n_head=4, n_positions=64)
    else:
        sizes |= dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
        sizes |= {} if "NeoX" in name else {"num_key_value_heads": 2}
    torch.manual_seed(0)
    model = cls(cls.config_class(**sizes))
    assert diagnose(model, course_batch(), quiet=True) == []
    assert diagnose(model, course_batch()[0], quiet=True) == []


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "zero at the end"])
def test_nothing_in_right_steps(kind):
    model, counter = gpt(dropout=0.1), itertools.count()
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1)
        if kind == "SGD"
        else torch.optim.AdamW(model.parameters())
    )

    def step():
        if kind != "zero at the end":
            optimizer.zero_grad()
        inputs, targets = course_batch(seed=next(counter))
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if kind == "zero at the end":
            optimizer.zero_grad()

    assert diagnose(model, course_batch(), step=step, quiet=True) == []


# ---------------------------------------------------------------- left as found


def test_everything_is_left_as_found(capsys):
    model, batch, step = zoo.hunt(by_name("learning rate times 100"))
    step()
    model.blocks[0].eval()  # some parts in one mode, some in the other
    weights = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    random_numbers = torch.get_rng_state()
    findings = diagnose(model, batch, step=step)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters()))
    assert modes == [module.training for module in model.modules()]
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert torch.equal(random_numbers, torch.get_rng_state())
    assert model.lm_head.weight is model.embedding.token.weight
    printed = capsys.readouterr().out
    assert all(finding.name in printed and finding.evidence in printed for finding in findings)


def test_the_optimizer_is_left_as_found():
    model = gpt()
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        optimizer.zero_grad()
        inputs, targets = course_batch()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    step()
    state = copy.deepcopy(optimizer.state_dict())
    diagnose(model, course_batch(), step=step, quiet=True)
    for number, entry in optimizer.state_dict()["state"].items():
        assert all(
            torch.equal(entry[key], state["state"][number][key]) for key in ("exp_avg", "exp_avg_sq", "step")
        )


def test_nothing_of_the_zoo_is_read():
    """diagnose knows no specimen: no module that it imports knows bugs or specimens, or reads source."""
    for name in (
        "diagnose",
        "whole",
        "parts",
        "heads",
        "attending",
        "anatomy",
        "evidence",
        "pairing",
        "stepping",
    ):
        module = __import__(f"appendix.b_debugging.{name}", fromlist=["x"])
        assert not re.search(
            r"\b(bugs|specimens|zoo|inspect)\b", re.sub(r"(?m)^#.*$", "", inspect.getsource(module))
        )


# ---------------------------------------------------------------- other variants than the zoo's


def broken(home, right, wrong, **config):
    """(model, batch) with another line broken than those of the zoo."""
    return zoo.hunt(zoo.Bug("another", "", home, right, wrong, "", "", "", config))


OTHERS = {
    "attention residual": (
        "transformer",
        "x = x + self.drop(self.attention(self.norm1(x), mask, cache, cos_sin=cos_sin))",
        "x = self.drop(self.attention(self.norm1(x), mask, cache, cos_sin=cos_sin))",
        {},
        "residual connection missing",
    ),
    "keys from queries": (
        "attention",
        "k = split_heads(self.k_proj(x)",
        "k = split_heads(self.q_proj(x)",
        {},
        "keys not used",
    ),
    "no root": (
        "attention",
        "math.sqrt(q.size(-1))",
        "q.size(-1)",
        {"backend": "eager"},
        "attention scaled by head_dim, not its root",
    ),
    "only keys": (
        "attention",
        "q, k = self.rope.rotate(q, cos_sin), self.rope.rotate(k, cos_sin)",
        "k = self.rope.rotate(k, cos_sin)",
        {"position": "rope"},
        "only keys are rotated",
    ),
    "backwards": (
        "attention",
        "self.rope.rotate(k, cos_sin)",
        "self.rope.rotate(k, cos_sin * torch.tensor([1, -1]))",
        {"position": "rope"},
        "queries and keys are rotated differently",
    ),
    "two ahead": (
        "attention",
        "device=device).tril()  # (T, T)",
        "device=device).tril(2)  # (T, T)",
        {"backend": "eager"},
        "mask lets the future through",
    ),
    "norm by variance": (
        "transformer",
        "return F.rms_norm(x, self.weight.shape, self.weight, self.eps)",
        "return x / x.square().mean(-1, keepdim=True) * self.weight",
        {"norm": "rmsnorm"},
        "norm does not normalise",
    ),
    "gate unbent": (
        "transformer",
        "F.silu(self.gate_proj(x)) * self.up_proj(x)",
        "self.gate_proj(x) * self.up_proj(x)",
        {"activation": "swiglu"},
        "activation missing",
    ),
    "stream twice": (
        "transformer",
        "return x + self.drop(self.feed_forward(self.norm2(x)))",
        "return x + x + self.drop(self.feed_forward(self.norm2(x)))",
        {},
        "stream not passed on as it is",
    ),
    "block detached": (
        "transformer",
        "x = block(x, mask, None if cache is None else cache[layer], cos_sin)",
        "x = block(x, mask, None if cache is None else cache[layer], cos_sin).detach()",
        {},
        "gradient cut",
    ),
    "first token hidden": (
        "attention",
        "device=device).tril()  # (T, T)",
        "device=device).tril().index_fill(1, torch.tensor([0]), False)  # (T, T)",
        {"backend": "eager"},
        "mask hides a part of the past",
    ),
    "only itself seen": (
        "attention",
        "device=device).tril()  # (T, T)",
        "device=device).tril().triu()  # (T, T)",
        {"backend": "eager"},
        "tokens do not see each other",
    ),
    "rows of keys": (
        "attention",
        "output = fused_attention(q, k, v, mask",
        "output = fused_attention(k, q, v, mask",
        {},
        "queries and keys exchanged",
    ),
    "heads by stride": (
        "attention",
        "x.view(B, T, width // head_dim, head_dim).transpose(1, 2)",
        "x.view(B, T, head_dim, width // head_dim).permute(0, 3, 1, 2)",
        {},
        "heads cut in one order and joined in another",
    ),
    "weights detached": (
        "attention",
        "F.dropout(weights, dropout_p) @ v",
        "F.dropout(weights, dropout_p).detach() @ v",
        {"backend": "eager"},
        "gradient cut",
    ),
    "attention unnormed": (
        "transformer",
        "x = x + self.drop(self.attention(self.norm1(x), mask, cache, cos_sin=cos_sin))",
        "x = x + self.drop(self.attention(x, mask, cache, cos_sin=cos_sin))",
        {"position": "rope", "norm": "rmsnorm"},
        "norm missing",
    ),
    "gate added": (
        "transformer",
        "F.silu(self.gate_proj(x)) * self.up_proj(x)",
        "F.silu(self.gate_proj(x)) + self.up_proj(x)",
        {"activation": "swiglu"},
        "gate not multiplied",
    ),
    "normed between blocks": (
        "transformer",
        "x = block(x, mask, None",
        "x = block(self.norm(x), mask, None",
        {},
        "stream not passed on as it is",
    ),
    "mean kept": (
        "transformer",
        "return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)",
        "return x / (x.var(-1, keepdim=True) + self.eps).sqrt() * self.weight",
        {},
        "norm of the wrong size",
    ),
    "eps too large": (
        "transformer",
        "return F.rms_norm(x, self.weight.shape, self.weight, self.eps)",
        "return F.rms_norm(x, self.weight.shape, self.weight, 0.1)",
        {"norm": "rmsnorm"},
        "norm of the wrong size",
    ),
    "positions multiplied": ("embeddings", "x = x + added", "x = x * added", {}, "positions not added"),
    "zeros": (
        "transformer",
        "parameter.normal_(std=std / math.sqrt(2 * model.config.n_layers) if residual else std)",
        "parameter.zero_()",
        {"tie_weights": False},
        "weights not drawn around 0",
    ),
    "all positive": (
        "transformer",
        "parameter.normal_(std=std / math.sqrt(2 * model.config.n_layers) if residual else std)",
        "parameter.uniform_(0, std)",
        {},
        "weights not drawn around 0",
    ),
    "three ahead": (
        "data",
        "return windows[:, :-1], windows[:, 1:]",
        "return windows[:, :-3], windows[:, 3:]",
        {},
        "targets shifted by 3",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_faults_are_named_too(name):
    home, right, wrong, config, found_as = OTHERS[name]
    model, batch, _ = broken(home, right, wrong, **config)
    assert found_as in names(diagnose(model, batch, quiet=True))


# ---------------------------------------------------------------- the batch


@pytest.mark.parametrize("T", [2, 3, 8])
def test_right_targets_have_no_fault(T):
    inputs, targets = course_batch(V=5, B=2, T=T)
    assert list(shift_faults(inputs, targets)) == []
    assert agreement(inputs, targets, 1)[0] == 1.0
    same = torch.zeros_like(inputs)
    assert list(shift_faults(same, same)) == []


def test_rows_of_targets_in_another_order():
    inputs, targets = course_batch()
    assert names(shift_faults(inputs, targets.roll(1, 0))) == ["targets of other rows"]


def test_ids_outside_and_another_tokenizer():
    class Tokenizer:
        n_vocab = 100

    inputs, targets = course_batch()
    found = names(diagnose(gpt(), (inputs + 50, targets), tokenizer=Tokenizer(), quiet=True))
    assert "ids outside the vocabulary" in found and "tokenizer of another vocabulary" in found


# ---------------------------------------------------------------- models that cannot be asked


def test_a_forward_pass_that_fails_is_named():
    model = gpt()
    model.blocks[1].norm2 = torch.nn.LayerNorm(7)
    (finding,) = diagnose(model, course_batch(), quiet=True)
    assert finding.name == "forward pass fails" and "(4, 12)" in finding.evidence and "7" in finding.evidence
    model.blocks[1] = model.blocks[0]
    model.norm = torch.nn.LayerNorm(7)
    found = names(diagnose(model, course_batch(), quiet=True))
    assert found == ["forward pass fails", "layers are one object"]


def test_a_model_that_keeps_its_outputs():
    model = gpt()
    model.kept = model(course_batch()[0])
    assert names(diagnose(model, course_batch(), quiet=True)) == ["model cannot be copied"]


def test_inputs_and_targets_of_other_shapes():
    inputs, targets = course_batch()
    with pytest.raises(ValueError, match="differ in shape"):
        diagnose(gpt(), (inputs, targets[:, 1:]), quiet=True)


class OfOneLength(torch.nn.Module):
    """A model whose mask has one size only."""

    def __init__(self, T):
        super().__init__()
        self.inner, self.T = gpt(n_layers=1), T

    def forward(self, ids):
        if ids.size(1) != self.T:
            raise ValueError(f"expected {self.T} tokens")
        return self.inner(ids)


def test_a_model_of_one_length_is_probed_too():
    model = OfOneLength(12)
    assert diagnose(model, course_batch(), quiet=True) == []
    model.inner.norm = torch.nn.Identity()
    assert names(diagnose(model, course_batch(), quiet=True)) == ["final norm missing"]


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_short_contexts(context_length):
    model = gpt(context_length=context_length)
    assert diagnose(model, course_batch(T=context_length), quiet=True) == []
