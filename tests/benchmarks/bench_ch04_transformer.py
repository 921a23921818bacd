"""Chapter 4: a training step of our GPT against transformers' GPT-2 of the same size, and its parts."""

import contextlib
import math

import torch
import torch.nn.functional as F
from harness import compare, lazily, needs_compiler
from transformers import GPT2Config, GPT2LMHeadModel

from ch04_transformer.transformer import GPT, GPTConfig, LayerNorm
from ch05_training.optimization import cross_entropy
from ch06_inference.convert import config_from_hf, from_hf


def both_models(config):
    """Our GPT and transformers' GPT-2 with the same weights."""
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model,
            n_head=config.n_heads, n_layer=config.n_layers, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    theirs.loss_type = "ForCausalLM"  # or it warns that it must guess
    ours = GPT(config)
    ours.load_state_dict(from_hf(theirs.state_dict(), config_from_hf(theirs.config.to_dict())))
    return ours.train(), theirs.train()


def training_step(model, loss_of, precision=None):
    """A function that makes one step: forward, loss, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step():
        context = torch.autocast("cpu", precision) if precision else contextlib.nullcontext()
        with context:
            loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compiled_step(config, loss_of, precision=None):
    """The same with a new model of ours and everything before the backward pass compiled."""
    needs_compiler(torch.device("cpu"))
    return training_step(both_models(config)[0], torch.compile(loss_of), precision)


def by_hand(x, weight, bias, eps=1e-5):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight + bias


def tanh_gelu_by_hand(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def run(quick):
    torch.manual_seed(0)
    config, batch = GPTConfig.preset("gpt2-mini"), 16
    if quick:
        config, batch = GPTConfig(256, 32, d_model=32, n_heads=2, n_layers=2, bias=True), 4
    ids = torch.randint(config.vocab_size, (batch, config.context_length + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def ours_loss(model):
        return cross_entropy(model(inputs), targets)

    def torch_loss(model):
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def theirs_loss(model):  # as their documentation trains it: the model shifts the labels itself
        return model(inputs, labels=inputs, use_cache=False).loss

    def theirs_same_loss(model):
        return cross_entropy(model(inputs, use_cache=False).logits, targets)

    ours, theirs = both_models(config)
    candidates = {
        "ours": training_step(ours, ours_loss),
        "transformers": training_step(theirs, theirs_loss),
        "transformers, our loss": training_step(both_models(config)[1], theirs_same_loss),
        "ours, PyTorch's loss": training_step(both_models(config)[0], torch_loss),
        "ours, bf16 autocast": training_step(both_models(config)[0], ours_loss, torch.bfloat16),
    }
    if not quick:
        candidates["ours, compiled"] = lazily(compiled_step, config, ours_loss)
        candidates["ours, compiled and bf16"] = lazily(compiled_step, config, ours_loss, torch.bfloat16)
    sizes = f"{config.n_layers} layers, d_model {config.d_model}, context {config.context_length}"
    compare(
        f"training step with AdamW, {sizes}, batch {batch}, vocabulary {config.vocab_size}, float32",
        candidates,
        "transformers",
        rounds=2 if quick else 7,
        goals={"ours": 1 / 1.2},
        work=batch * config.context_length,
        unit="tokens",
    )
    parts(batch, config, 2 if quick else 15)


def parts(batch, config, rounds):
    """Forward and backward of what a block is made of: the formula written out, and the kernel that runs."""
    D = config.d_model
    x = torch.randn(batch, config.context_length, D, requires_grad=True)
    wide = torch.randn(batch, config.context_length, 4 * D, requires_grad=True)
    norm = LayerNorm(D)

    def timed(function, x):
        ones = torch.ones_like(x)
        return lambda: function(x).backward(ones)

    candidates = {
        "layer norm by hand": timed(lambda x: by_hand(x, norm.weight, norm.bias), x),
        "layer norm, fused": timed(norm, x),
    }
    compare("layer norm, forward and backward", candidates, "layer norm, fused", rounds)
    candidates = {
        "tanh-GELU by hand": timed(tanh_gelu_by_hand, wide),
        "tanh-GELU, fused": timed(lambda x: F.gelu(x, approximate="tanh"), wide),
        "GELU with erf, fused": timed(F.gelu, wide),
        "SiLU, fused": timed(F.silu, wide),
    }
    compare("the activation function, forward and backward", candidates, "tanh-GELU, fused", rounds)
