"""Preference tuning: answers and their log-probabilities, pairs of them, and DPO."""

# Written by `make export` from g_preferences.ipynb; change it there.

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .previous_chapters import AdamW, clip_grad_norm_, generate

__all__ = [
    "answer_mask",
    "sample_answers",
    "Preferences",
    "make_preferences",
    "token_logprobs",
    "sequence_logprobs",
    "dpo_loss",
    "PreferenceConfig",
    "pair_logprobs",
    "preference_loss",
    "prefer",
    "wilson_interval",
]

# %% g_preferences.ipynb #159e0399
def answer_mask(token_ids, prompt_length, end_id=None):
    """Which of token_ids (B, T) are the answer, its first end_id included: (B, T) bool."""
    mask = (torch.arange(token_ids.size(1), device=token_ids.device) >= prompt_length).expand_as(token_ids)
    if end_id is None:
        return mask
    ends = (token_ids == end_id) & mask
    return mask & (ends.cumsum(dim=1) - ends.long() == 0)  # no end before this token


def sample_answers(model, prompts, max_new_tokens, end_id=None, temperature=1.0, generator=None):
    """Continue each prompt: (B, P) int64 -> token_ids (B, P + max_new_tokens) and their answer mask, bool.

    A row that has ended is filled up with end_id. Equal prompts get answers that are drawn independently.
    """
    token_ids = generate(model, prompts, max_new_tokens, temperature, eos_id=end_id, generator=generator)
    missing = prompts.size(1) + max_new_tokens - token_ids.size(1)  # 0, unless all rows ended early
    token_ids = F.pad(token_ids, (0, missing), value=end_id or 0)
    return token_ids, answer_mask(token_ids, prompts.size(1), end_id)

# %% g_preferences.ipynb #667a0c87
class Preferences(NamedTuple):
    """N pairs of answers to the same prompt: ids (N, T) int64, and masks (N, T) bool of the answers."""

    chosen: torch.Tensor
    chosen_mask: torch.Tensor
    rejected: torch.Tensor
    rejected_mask: torch.Tensor

    def take(self, rows):
        """The pairs with these numbers."""
        return Preferences(*(part[rows] for part in self))


def make_preferences(token_ids, mask, scores):
    """Of K answers to each prompt, the first of the best and the first of the worst, where these differ.

    token_ids (Q, K, T), mask (Q, K, T), scores (Q, K), higher is better.
    """
    rows = (scores.amax(dim=1) > scores.amin(dim=1)).nonzero().squeeze(1)  # (N,)
    best, worst = scores[rows].argmax(dim=1), scores[rows].argmin(dim=1)  # (N,) each
    return Preferences(token_ids[rows, best], mask[rows, best], token_ids[rows, worst], mask[rows, worst])

# %% g_preferences.ipynb #8c268261
def token_logprobs(model, token_ids):
    """ln p of every token but the first, given those before it: (B, T) int64 -> (B, T - 1) float."""
    log_p = model(token_ids[:, :-1]).log_softmax(dim=-1)  # (B, T - 1, V)
    return log_p.gather(-1, token_ids[:, 1:].unsqueeze(-1)).squeeze(-1)  # (B, T - 1)


def sequence_logprobs(model, token_ids, mask):
    """ln p of each answer given its prompt, in nats: token_ids and mask (B, T) -> (B,)."""
    return token_logprobs(model, token_ids).where(mask[:, 1:], 0.0).sum(dim=-1)

# %% g_preferences.ipynb #331296c1
def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta=0.1):
    """-ln sigma(difference of the implicit rewards): Rafailov et al. 2023, equation 7.

    The four are log-probabilities of answers in nats, (B,); returns the loss of each pair, (B,).
    """
    margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return -F.logsigmoid(margin)

# %% g_preferences.ipynb #da313daa
@dataclass(frozen=True)
class PreferenceConfig:
    """How a policy is tuned on pairs."""

    steps: int = 60  # optimizer steps
    batch_size: int = 32  # pairs in a step
    lr: float = 1e-3  # AdamW's rate, without decay of the weights
    beta: float | None = 0.1  # pull towards the reference; None: imitate the chosen answers instead
    seed: int = 0  # of the order of the pairs


def pair_logprobs(model, pairs):
    """ln p of the chosen and of the rejected answers of Preferences, (N,) each, in one pass."""
    ids, mask = torch.cat([pairs[0], pairs[2]]), torch.cat([pairs[1], pairs[3]])  # (2 N, T) each
    return sequence_logprobs(model, ids, mask).chunk(2)


def preference_loss(policy, pairs, reference, beta):
    """Mean loss of some pairs: DPO's, or without a beta the surprise a token of the chosen answers."""
    if beta is None:
        return -sequence_logprobs(policy, *pairs[:2]).sum() / pairs.chosen_mask.sum()
    return dpo_loss(*pair_logprobs(policy, pairs), *reference, beta).mean()


def prefer(model, pairs, config, watch=None):
    """Tune a copy of the model on Preferences; returns the copy and the loss of every step.

    watch(step, policy) is called after each step, counted from 1.
    """
    policy, generator = copy.deepcopy(model), torch.Generator().manual_seed(config.seed)
    optimizer = AdamW(policy.parameters(), config.lr, betas=(0.9, 0.99), weight_decay=0.0)
    with torch.no_grad():
        reference = pair_logprobs(model, pairs)  # (N,) each
    losses = []
    for step in range(1, config.steps + 1):
        rows = torch.randint(len(pairs.chosen), (config.batch_size,), generator=generator)
        loss = preference_loss(policy, pairs.take(rows), [part[rows] for part in reference], config.beta)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if watch:
            watch(step, policy)
    return policy, losses

# %% g_preferences.ipynb #dd685f79
def wilson_interval(successes, n, z=1.96):
    """Where a rate lies with 95 % confidence, after `successes` of n: (low, high). Wilson 1927."""
    rate, spread = successes / n, z * z / n
    middle = rate + spread / 2
    half = z * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    return (middle - half) / (1 + spread), (middle + half) / (1 + spread)
