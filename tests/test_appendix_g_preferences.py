"""Appendix G, preferences: masks, log-probabilities and DPO against formulas written out, and a small run."""

import copy
import math
from itertools import product

import pytest
import torch

from appendix.g_finetuning.preferences import (
    PreferenceConfig,
    Preferences,
    answer_mask,
    dpo_loss,
    make_preferences,
    pair_logprobs,
    prefer,
    preference_loss,
    sample_answers,
    sequence_logprobs,
    token_logprobs,
    wilson_interval,
)
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.optimization import cross_entropy

PROMPT, ANSWER, VOCAB, END = 3, 4, 7, 0


def small_gpt(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return GPT(GPTConfig(VOCAB, 16, d_model=16, n_heads=2, n_layers=1, init_std=0.3)).to(dtype).eval()


def some_pairs(seed=0, n=6):
    """Random pairs with the same prompt, whose answers end at different places."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, VOCAB, (n, PROMPT), generator=generator)
    parts = []
    for _ in range(2):
        answers = torch.randint(0, VOCAB, (n, ANSWER), generator=generator)
        ids = torch.cat([prompts, answers], dim=1)
        parts += [ids, answer_mask(ids, PROMPT, END)]
    return Preferences(*parts)


# ---------------------------------------------------------------- masks and samples


@pytest.mark.parametrize(
    "row, expected",
    [
        ([5, 6, 7, 8, 0, 0], [0, 0, 1, 1, 1, 0]),  # the first end counts, what is behind it does not
        ([5, 6, 7, 8, 9, 9], [0, 0, 1, 1, 1, 1]),  # no end: all of it
        ([5, 6, 0, 8, 0, 9], [0, 0, 1, 0, 0, 0]),  # an answer that is only an end
        ([0, 0, 7, 8, 0, 1], [0, 0, 1, 1, 1, 0]),  # ends in the prompt are no ends
    ],
)
def test_the_mask_is_the_answer_with_its_end(row, expected):
    assert answer_mask(torch.tensor([row]), 2, 0).int().tolist() == [expected]
    assert answer_mask(torch.tensor([row]), 2).int().tolist() == [[0, 0, 1, 1, 1, 1]]


def test_samples_are_filled_up_and_marked():
    model = small_gpt()
    prompts = torch.randint(1, VOCAB, (50, PROMPT), generator=torch.Generator().manual_seed(1))
    draws = [
        sample_answers(model, prompts, ANSWER, END, generator=torch.Generator().manual_seed(2))
        for _ in range(2)
    ]
    (ids, mask), (again, _) = draws
    assert torch.equal(ids, again) and ids.shape == mask.shape == (50, PROMPT + ANSWER)
    assert torch.equal(ids[:, :PROMPT], prompts) and torch.equal(mask, answer_mask(ids, PROMPT, END))
    filling = ~mask[:, PROMPT:]
    assert filling.any() and (ids[:, PROMPT:][filling] == END).all()


def test_samples_have_their_full_width_when_all_rows_end_early():
    model = small_gpt()
    with torch.no_grad():  # the end token's logit far above the others
        model.lm_head = torch.nn.Linear(16, VOCAB)
        model.lm_head.weight.zero_()
        model.lm_head.bias.copy_(torch.tensor([50.0] + [0.0] * (VOCAB - 1)))
    ids, mask = sample_answers(model, torch.ones(4, PROMPT, dtype=torch.long), ANSWER, END)
    assert ids.shape == (4, PROMPT + ANSWER) and mask.sum(dim=1).tolist() == [1] * 4


def test_log_probabilities_equal_the_formula_written_out():
    model, pairs = small_gpt(dtype=torch.float64), some_pairs()
    got = token_logprobs(model, pairs.chosen)
    summed = sequence_logprobs(model, pairs.chosen, pairs.chosen_mask)
    logits = model(pairs.chosen).tolist()
    for row, ids in enumerate(pairs.chosen.tolist()):
        total = 0.0
        for place in range(1, len(ids)):
            guess = logits[row][place - 1]
            expected = guess[ids[place]] - math.log(sum(math.exp(value) for value in guess))
            assert math.isclose(got[row, place - 1].item(), expected, abs_tol=1e-12)
            total += expected * bool(pairs.chosen_mask[row, place])
        assert math.isclose(summed[row].item(), total, abs_tol=1e-12)


def test_what_stands_behind_the_end_changes_no_log_probability():
    model, pairs = small_gpt(), some_pairs(n=30)
    behind = (torch.arange(PROMPT + ANSWER) >= PROMPT) & ~pairs.chosen_mask
    assert behind.any()
    other = pairs.chosen.masked_fill(behind, 5)
    before, after = (sequence_logprobs(model, ids, pairs.chosen_mask) for ids in (pairs.chosen, other))
    assert torch.allclose(before, after, atol=1e-5)
    visible = pairs.chosen.masked_fill(pairs.chosen_mask, 5)  # while the answer itself counts
    assert not torch.allclose(before, sequence_logprobs(model, visible, pairs.chosen_mask), atol=1e-2)


def test_the_answers_of_a_prompt_have_probabilities_that_add_up_to_one():
    model = small_gpt(dtype=torch.float64)
    answers = torch.tensor(list(product(range(VOCAB), repeat=2)))  # (49, 2)
    ids = torch.cat([torch.tensor([[1, 2, 3]]).expand(len(answers), 3), answers], dim=1)
    total = sequence_logprobs(model, ids, answer_mask(ids, 3)).exp().sum()
    assert torch.isclose(total, torch.tensor(1.0, dtype=torch.float64))


# ---------------------------------------------------------------- the loss


def test_dpo_equals_the_reference_formula():
    """As torchtune and TRL write it: -logsigmoid(beta (policy log-ratio - reference log-ratio))."""
    four = torch.randn(4, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 5
    for beta in (0.03, 0.1, 1.0):
        got = dpo_loss(*four, beta)
        for pair in range(20):
            chosen, rejected, reference_chosen, reference_rejected = four[:, pair].tolist()
            margin = beta * ((chosen - rejected) - (reference_chosen - reference_rejected))
            assert math.isclose(got[pair].item(), math.log1p(math.exp(-margin)), abs_tol=1e-12)


def test_the_gradient_of_dpo():
    four = torch.randn(4, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 5
    four.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: dpo_loss(*f, 0.3), four)
    (gradient,) = torch.autograd.grad(dpo_loss(*four, 0.3).sum(), four)
    with torch.no_grad():
        rewards = 0.3 * (four[0] - four[2]), 0.3 * (four[1] - four[3])
        weight = (rewards[1] - rewards[0]).sigmoid()
    expected = 0.3 * weight * torch.tensor([[-1.0], [1], [1], [-1]], dtype=torch.float64)
    assert torch.allclose(gradient, expected)


def test_margins_of_any_size_stay_finite():
    far = torch.tensor([-2000.0, 2000.0], requires_grad=True)
    loss = dpo_loss(far, torch.zeros(2), torch.zeros(2), torch.zeros(2), beta=1.0)
    loss.sum().backward()
    assert loss.tolist() == [2000.0, 0.0] and far.grad.tolist() == [-1.0, 0.0]


def test_only_the_ratio_to_the_reference_counts():
    four = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))
    moved = four + torch.tensor([2.0, -1.0, 2.0, -1.0]).unsqueeze(1)
    assert torch.allclose(dpo_loss(*four), dpo_loss(*moved), atol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 3.0])
def test_the_first_loss_is_that_of_a_coin(beta):
    model, pairs = small_gpt(), some_pairs()
    with torch.no_grad():
        reference = pair_logprobs(model, pairs)
    assert torch.isclose(preference_loss(model, pairs, reference, beta), torch.tensor(math.log(2)))


def test_a_prompt_in_the_mask_cancels_and_filling_does_not():
    model, policy, pairs = small_gpt(0), small_gpt(1), some_pairs(n=12)
    columns = torch.arange(PROMPT + ANSWER)

    def loss_with(add):
        marked = pairs._replace(chosen_mask=add(pairs.chosen_mask), rejected_mask=add(pairs.rejected_mask))
        return preference_loss(policy, marked, pair_logprobs(model, marked), 0.5)

    right = loss_with(lambda mask: mask)
    assert torch.isclose(loss_with(lambda mask: mask | (columns < PROMPT)), right, atol=1e-5)
    assert not torch.isclose(loss_with(torch.ones_like), right, atol=1e-2)


def test_imitation_is_cross_entropy_on_the_chosen_answers():
    model, pairs = small_gpt(), some_pairs()
    targets = pairs.chosen[:, 1:].where(pairs.chosen_mask[:, 1:], -100)
    expected = cross_entropy(model(pairs.chosen[:, :-1]), targets)
    assert torch.isclose(preference_loss(model, pairs, None, None), expected, atol=1e-6)


# ---------------------------------------------------------------- pairs and the loop


def test_pairs_are_the_best_and_the_worst_and_ties_are_left_out():
    ids = torch.arange(3 * 4 * 2).view(3, 4, 2)
    mask = torch.ones_like(ids, dtype=torch.bool)
    scores = torch.tensor([[1.0, 3, 0, 3], [2, 2, 2, 2], [0, 0, 0, 1]])
    pairs = make_preferences(ids, mask, scores)
    assert torch.equal(pairs.chosen, torch.stack([ids[0, 1], ids[2, 3]]))
    assert torch.equal(pairs.rejected, torch.stack([ids[0, 2], ids[2, 0]]))
    assert len(pairs.take(slice(0, 1)).chosen) == 1


def without_three(ids, mask):
    return ~((ids == 3) & mask).any(dim=1)


def wish_rate(model, seed):
    """The share of fresh answers without token 3."""
    prompts = torch.randint(1, VOCAB, (400, PROMPT), generator=torch.Generator().manual_seed(9))
    drawn = sample_answers(model, prompts, ANSWER, generator=torch.Generator().manual_seed(seed))
    return without_three(*drawn).float().mean().item()


@pytest.mark.parametrize("beta", [0.1, 1.0, None])
def test_a_wish_is_learned(beta):
    """The notebook's headline, in small and over another seed."""
    model = small_gpt(seed=11)
    generator = torch.Generator().manual_seed(12)
    prompts = torch.randint(1, VOCAB, (200, PROMPT), generator=generator).repeat_interleave(4, dim=0)
    ids, mask = sample_answers(model, prompts, ANSWER, generator=generator)
    scores = without_three(ids, mask).float().view(200, 4)
    pairs = make_preferences(ids.view(200, 4, -1), mask.view(200, 4, -1), scores)
    before = copy.deepcopy(model.state_dict())
    settings = PreferenceConfig(steps=60, lr=3e-3, beta=beta, seed=13)
    policy, losses = prefer(model, pairs, settings)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert wish_rate(policy, 14) > wish_rate(model, 14) + 0.15
    assert sum(losses[-10:]) < sum(losses[:10])
    if beta:
        assert math.isclose(losses[0], math.log(2), abs_tol=1e-5)
        assert prefer(model, pairs, settings)[1] == losses  # the same seed, the same run


def test_the_watcher_sees_every_step_and_the_policy():
    seen = []
    model = small_gpt()
    prefer(
        model, some_pairs(), PreferenceConfig(steps=3, batch_size=2), lambda *seen_now: seen.append(seen_now)
    )
    assert [step for step, _ in seen] == [1, 2, 3] and all(policy is not model for _, policy in seen)


def test_the_interval_of_wilson():
    low, high = wilson_interval(20, 100)
    assert math.isclose(low, 0.1334, abs_tol=1e-4) and math.isclose(high, 0.2888, abs_tol=1e-4)
    assert wilson_interval(0, 10)[0] == pytest.approx(0, abs=1e-12) and wilson_interval(0, 10)[1] > 0.2
    assert wilson_interval(10, 10)[1] == pytest.approx(1)
    covered = []
    for rate in (0.1, 0.3, 0.5):  # how often it holds the true rate, all outcomes of 50 counted
        chances = [math.comb(50, k) * rate**k * (1 - rate) ** (50 - k) for k in range(51)]
        held = [low <= rate <= high for low, high in (wilson_interval(k, 50) for k in range(51))]
        covered.append(sum(chance for chance, holds in zip(chances, held) if holds))
    assert all(0.92 < share < 0.98 for share in covered)
