"""Reinforcement learning with a checked reward: groups, advantages, GRPO, and pass@k."""

# Written by `make export` from g_rewards.ipynb; change it there.

import copy
import math
from dataclasses import dataclass

import torch

from .preferences import sample_answers, token_logprobs
from .previous_chapters import AdamW, clip_grad_norm_

__all__ = [
    "group_advantages",
    "k3_divergence",
    "grpo_loss",
    "sample_groups",
    "PolicyConfig",
    "policy_step",
    "train_policy",
    "pass_at_k",
]

# %% g_rewards.ipynb #b22dd151
def group_advantages(rewards, scale=True, eps=1e-6):
    """How much better each answer is than its group: rewards (Q, G) -> (Q, G), each row with mean 0.

    scale: divide by the standard deviation of the group (with G - 1), as in Shao et al. 2024, section 4.1.2;
    Liu et al. 2025 (Dr. GRPO), section 3, leave it out. A group of equal rewards gets zeros. ValueError for
    groups of one.
    """
    if rewards.size(1) < 2:
        raise ValueError(f"rewards {tuple(rewards.shape)} are groups of one; draw 2 answers a prompt")
    advantages = rewards - rewards.mean(dim=1, keepdim=True)  # (Q, G)
    return advantages / (rewards.std(dim=1, keepdim=True) + eps) if scale else advantages

# %% g_rewards.ipynb #402c00bf
def k3_divergence(logp, reference_logp):
    """An estimate of KL(policy || reference) from each token that the policy drew; never negative.

    e^d - d - 1 with d = reference_logp - logp: Schulman 2020; Shao et al. 2024, equation 4. Any shape, nats.
    """
    d = reference_logp - logp
    return d.exp() - d - 1

# %% g_rewards.ipynb #be7d07f7
def grpo_loss(new_logp, old_logp, reference_logp, advantages, mask, clip=0.2, beta=0.0, length=None):
    """Minus GRPO's objective: Shao et al. 2024, equation 3, the mean over B answers; a scalar.

    new_logp, old_logp, reference_logp: ln p of each token, (B, T), by the policy that learns, the one that
    drew the answers, and the reference. advantages: (B,). mask: (B, T) bool, True for an answer's tokens, its
    end included. length: divide each answer's sum by this number and not by its own tokens (Dr. GRPO).
    """
    ratio = (new_logp - old_logp).exp()  # (B, T)
    A = advantages.unsqueeze(1)  # (B, 1)
    gain = torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)  # (B, T)
    if beta:
        gain = gain - beta * k3_divergence(new_logp, reference_logp)
    n_tokens = mask.sum(dim=1).clamp(min=1) if length is None else length  # (B,) or a number
    return -(gain.where(mask, 0.0).sum(dim=1) / n_tokens).mean()

# %% g_rewards.ipynb #35041928
def sample_groups(model, prompts, group_size, max_new_tokens, end_id, temperature=1.0, generator=None):
    """group_size answers to each prompt (Q, P): ids (Q G, P + n) and mask, those of a prompt in a row."""
    repeated = prompts.repeat_interleave(group_size, dim=0)  # (Q G, P)
    return sample_answers(model, repeated, max_new_tokens, end_id, temperature, generator)

# %% g_rewards.ipynb #dff2d664
@dataclass(frozen=True)
class PolicyConfig:
    """How a policy is trained by rewards."""

    steps: int = 100  # times that answers are drawn
    n_prompts: int = 16  # prompts in a step
    group_size: int = 8  # answers to each
    updates: int = 2  # optimizer steps on the same answers
    clip: float = 0.2  # how far the ratio may go before it stops to count
    beta: float = 0.0  # weight of the divergence from the reference
    length: int | None = None  # None: each answer's mean over its tokens; a number: its sum over that
    lr: float = 5e-4  # AdamW's rate, without decay of the weights
    max_new_tokens: int = 4  # of an answer, its end included
    seed: int = 0  # of prompts and answers


def policy_step(policy, optimizer, reference, ids, mask, rewards, config, advantages_of=group_advantages):
    """config.updates optimizer steps on answers that the policy has just drawn, groups in a row.

    ids, mask: (Q G, T); rewards: (Q G,). reference: the model that the divergence is measured from.
    """
    c, m = config, mask[:, 1:]
    advantages = advantages_of(rewards.view(-1, c.group_size)).flatten()  # (Q G,)
    with torch.no_grad():
        old_logp = token_logprobs(policy, ids)  # (Q G, T - 1)
        reference_logp = token_logprobs(reference, ids) if c.beta else old_logp
    for _ in range(c.updates):
        logp = token_logprobs(policy, ids)
        loss = grpo_loss(logp, old_logp, reference_logp, advantages, m, c.clip, c.beta, c.length)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()

# %% g_rewards.ipynb #f838006f
def train_policy(model, prompts, reward_of, end_id, config, advantages_of=group_advantages, watch=None):
    """GRPO on a copy of the model; returns the copy and one dict of numbers for each step.

    prompts: ids (N, P). reward_of(rows, token_ids, mask): the numbers of the prompts (B,), ids and mask of
    their answers (B, T) -> rewards (B,). advantages_of: rewards (Q, G) -> advantages (Q, G). watch(step,
    policy) is called after each step, counted from 1. Shao et al. 2024, algorithm 1, the reference fixed.
    """
    c, policy, generator = config, copy.deepcopy(model), torch.Generator().manual_seed(config.seed)
    optimizer = AdamW(policy.parameters(), c.lr, betas=(0.9, 0.99), weight_decay=0.0)
    sampling, history = dict(max_new_tokens=c.max_new_tokens, end_id=end_id, generator=generator), []
    for step in range(1, c.steps + 1):
        rows = torch.randint(len(prompts), (c.n_prompts,), generator=generator)
        ids, mask = sample_groups(policy, prompts[rows], c.group_size, **sampling)
        rewards = reward_of(rows.repeat_interleave(c.group_size), ids, mask)  # (Q G,)
        policy_step(policy, optimizer, model, ids, mask, rewards, c, advantages_of)
        numbers = {"reward": rewards.mean().item(), "length": mask.sum(dim=1).float().mean().item()}
        history.append({"step": step} | numbers)
        if watch:
            watch(step, policy)
    return policy, history

# %% g_rewards.ipynb #bf8fa59d
def pass_at_k(n, right, k):
    """The chance that at least one of k answers is right, from n drawn of which `right` are: a float.

    Without bias for k <= n: Chen et al. 2021, section 2.1, equation 1.
    """
    return 1 - math.comb(n - right, k) / math.comb(n, k)
