"""Appendix G, rewards: the checker, advantages, GRPO's loss against formulas written out, and small runs."""

import copy
import itertools
import math
import statistics

import pytest
import torch

from appendix.g_finetuning.arithmetic import (
    ADDING,
    END,
    addition_problems,
    answers_in,
    encode_problems,
    right_answer,
    score,
    split_problems,
    worked_problems,
)
from appendix.g_finetuning.policy import (
    PolicyConfig,
    group_advantages,
    grpo_loss,
    k3_divergence,
    pass_at_k,
    sample_groups,
    train_policy,
)
from appendix.g_finetuning.preferences import answer_mask, sample_answers, token_logprobs
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.optimization import AdamW, cross_entropy

F64 = torch.float64


def random_batch(seed=0, B=6, T=5):
    """new, old and reference log-probabilities (B, T) near each other, advantages (B,) and a mask."""
    generator = torch.Generator().manual_seed(seed)
    old = -torch.rand(B, T, generator=generator, dtype=F64) - 0.1
    new, reference = (old + 0.3 * torch.randn(B, T, generator=generator, dtype=F64) for _ in range(2))
    advantages = torch.randn(B, generator=generator, dtype=F64)
    mask = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=generator)
    return new, old, reference, advantages, mask


# ---------------------------------------------------------------- the checker


def test_the_right_answer_is_paid():
    assert [score(problem, right_answer(problem) + END) for problem in ("37+48=", "50+50=", "10+10=")] == [
        1.0
    ] * 3
    assert right_answer("37+48=") == "85" and right_answer("99+99=") == "198"


@pytest.mark.parametrize(
    "text",
    ["86\n", "85", "", "\n", " 85\n", "85 \n", "8 5\n", "085\n", "+85\n", "-85\n", "85.0\n", "8_5\n",
     "８５\n", "85\n\n", "85\n85\n", "8\n", "850\n", "5\n", "58\n", "85=\n", "37+48\n", "eighty-five\n",
     "\n85\n", "85\r\n"],
)  # fmt: skip
def test_nothing_else_is_paid(text):
    assert score("37+48=", text) == 0.0


def test_problems_are_split_without_overlap():
    problems = addition_problems()
    assert len(set(problems)) == len(problems) == 90 * 90 and {len(problem) for problem in problems} == {6}
    train, held_out = split_problems(problems, 400)
    assert (
        len(held_out) == 400
        and not set(train) & set(held_out)
        and set(train) | set(held_out) == set(problems)
    )
    assert split_problems(problems, 400) == (train, held_out) != split_problems(problems, 400, seed=1)


def test_worked_problems_score_full_marks():
    problems = ["37+48=", "70+48=", "10+10="]
    ids = worked_problems(problems)
    assert torch.equal(ids[:, :6], encode_problems(problems)) and ids.shape == (3, 10)
    texts = answers_in(ids, answer_mask(ids, 6, ADDING.encode(END)[0]))
    assert texts == ["85\n", "118\n", "20\n"] and all(map(score, problems, texts))


# ---------------------------------------------------------------- advantages


def test_advantages_by_hand_and_by_the_statistics_module():
    assert torch.allclose(
        group_advantages(torch.tensor([[1.0, 0, 0, 0]])), torch.tensor([[1.5, -0.5, -0.5, -0.5]])
    )
    rewards = torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=F64)
    for row, plain, scaled in zip(
        rewards.tolist(), group_advantages(rewards, False), group_advantages(rewards)
    ):
        mean, spread = statistics.mean(row), statistics.stdev(row)
        assert plain.tolist() == pytest.approx([reward - mean for reward in row])
        assert scaled.tolist() == pytest.approx([(reward - mean) / spread for reward in row], rel=1e-4)


def test_a_shift_of_the_rewards_changes_nothing_and_a_factor_only_without_the_division():
    rewards = torch.rand(3, 8, generator=torch.Generator().manual_seed(2), dtype=F64)
    for scale in (True, False):
        assert torch.allclose(group_advantages(rewards + 10, scale), group_advantages(rewards, scale))
    assert torch.allclose(group_advantages(3 * rewards), group_advantages(rewards), rtol=1e-4)
    assert torch.allclose(group_advantages(3 * rewards, False), 3 * group_advantages(rewards, False))


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("scale", [True, False])
def test_equal_rewards_give_no_gradient(reward, scale):
    new, old, reference, _, mask = random_batch()
    advantages = group_advantages(torch.full((1, 6), reward, dtype=F64), scale).flatten()
    new.requires_grad_()
    grpo_loss(new, old, reference, advantages, mask).backward()
    assert torch.isfinite(new.grad).all() and new.grad.abs().max() < 1e-9


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match="2 answers a prompt"):
        group_advantages(torch.ones(4, 1))


@pytest.mark.parametrize("G", [2, 3, 5])
def test_the_group_estimate_is_unbiased_up_to_its_factor(G):
    """All groups that three arms can give, counted."""
    p, rewards = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.0, 1.0, 2.5], dtype=F64)
    scores = torch.eye(3, dtype=F64) - p
    exact = p * (rewards - p @ rewards)
    total = torch.zeros(3, dtype=F64)
    for group in itertools.product(range(3), repeat=G):
        advantages = group_advantages(rewards[list(group)].unsqueeze(0), scale=False)[0]
        total += p[list(group)].prod() * (advantages.unsqueeze(1) * scores[list(group)]).mean(dim=0)
    assert torch.allclose(total, (G - 1) / G * exact)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("length", [None, 4])
def test_grpo_equals_equation_3_in_python_floats(beta, length):
    for seed in range(5):
        new, old, reference, advantages, mask = random_batch(seed)
        objective = 0.0
        for i, A in enumerate(advantages.tolist()):
            total, count = 0.0, 0
            for t in range(5):
                if not mask[i, t]:
                    continue
                rho = math.exp((new[i, t] - old[i, t]).item())
                d = (reference[i, t] - new[i, t]).item()
                gain = min(rho * A, max(min(rho, 1.2), 0.8) * A)
                total, count = total + gain - beta * (math.exp(d) - d - 1), count + 1
            objective += total / (length or count) / 6
        got = grpo_loss(new, old, reference, advantages, mask, clip=0.2, beta=beta, length=length)
        assert math.isclose(got.item(), -objective, abs_tol=1e-12)


def test_the_gradient_of_grpo():
    new, old, reference, advantages, mask = random_batch(3)
    new.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logp: grpo_loss(logp, old, reference, advantages, mask, 0.2, beta=0.1), new, atol=1e-6
    )


def test_at_the_first_update_it_is_the_policy_gradient():
    _, old, _, advantages, mask = random_batch(4)
    new = old.clone().requires_grad_()
    (got,) = torch.autograd.grad(grpo_loss(new, old, old, advantages, mask, beta=0.3), new)
    expected = -(advantages.unsqueeze(1) * mask) / mask.sum(dim=1, keepdim=True) / len(advantages)
    assert torch.allclose(
        got, expected
    )  # the divergence has no gradient either where policy and reference agree


@pytest.mark.parametrize(
    "A, ratio, gain, moves",
    [(1, 1.5, 1.2, False), (1, 1.1, 1.1, True), (1, 0.5, 0.5, True),
     (-1, 0.5, -0.8, False), (-1, 0.9, -0.9, True), (-1, 1.5, -1.5, True)],
)  # fmt: skip
def test_clipping_on_both_signs(A, ratio, gain, moves):
    new = torch.tensor([[math.log(ratio)]], dtype=F64, requires_grad=True)
    old, mask = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=torch.bool)
    loss = grpo_loss(new, old, old, torch.tensor([float(A)], dtype=F64), mask, clip=0.2)
    loss.backward()
    assert math.isclose(-loss.item(), gain, rel_tol=1e-9)
    assert math.isclose(new.grad.item(), -A * ratio if moves else 0.0, rel_tol=1e-9)


def test_tokens_outside_the_mask_change_nothing_and_the_end_counts():
    new, old, reference, advantages, mask = random_batch(5)
    before = grpo_loss(new, old, reference, advantages, mask, beta=0.1)
    assert not mask.all()
    other = [part.masked_fill(~mask, -7.0) for part in (new, old, reference)]
    assert torch.equal(grpo_loss(*other, advantages, mask, beta=0.1), before)
    last = mask & ~torch.cat(
        [mask[:, 1:], torch.zeros(6, 1, dtype=torch.bool)], dim=1
    )  # the end of each answer
    assert not torch.isclose(grpo_loss(new + 0.05 * last, old, reference, advantages, mask, beta=0.1), before)


def test_k3_is_never_negative_and_its_mean_is_the_divergence():
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        p, q = torch.randn(2, 9, generator=generator, dtype=F64).mul(2).log_softmax(dim=1)
        estimates = k3_divergence(p, q)
        assert (estimates >= 0).all()
        assert torch.isclose(p.exp() @ estimates, (p.exp() * (p - q)).sum())
    assert k3_divergence(p, p).abs().max() == 0


def test_the_policy_gradient_is_unbiased_on_a_model():
    """All nine answers of two tokens, each weighed by how probable it is: the gradient of the mean reward."""
    torch.manual_seed(7)
    model = GPT(GPTConfig(3, 8, d_model=8, n_heads=2, n_layers=1, init_std=0.4)).double()
    parameters = list(model.parameters())
    answers = torch.tensor(list(itertools.product(range(3), repeat=2)))  # (9, 2)
    ids = torch.cat([torch.tensor([[1, 2]]).expand(9, 2), answers], dim=1)
    mask, rewards = answer_mask(ids, 2)[:, 1:], torch.randn(9, dtype=F64)
    logp = token_logprobs(model, ids)
    chances = logp.where(mask, 0.0).sum(dim=1).exp()
    exact = torch.autograd.grad((chances * rewards).sum(), parameters)
    for baseline in (0.0, 3.0):
        logp = token_logprobs(model, ids)
        old = logp.detach()
        weighed = 9 * chances.detach() * (rewards - baseline)  # the loss takes the mean over nine answers
        estimate = torch.autograd.grad(grpo_loss(logp, old, old, weighed, mask, length=1), parameters)
        assert all(torch.allclose(-ours, right, atol=1e-12) for ours, right in zip(estimate, exact))


# ---------------------------------------------------------------- pass@k


@pytest.mark.parametrize("n, right", [(5, 0), (5, 1), (5, 2), (6, 4), (6, 6)])
def test_pass_at_k_counts_the_subsets(n, right):
    for k in range(1, n + 1):
        chosen = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert math.isclose(pass_at_k(n, right, k), sum(map(any, chosen)) / len(chosen))


# ---------------------------------------------------------------- small runs


@pytest.fixture(scope="module")
def half_taught():
    """(model, problems) of one digit; taught until it is right in a third of the cases."""
    problems = addition_problems(1, 4)  # 16 problems, answers 2 to 8
    torch.manual_seed(21)
    model = GPT(GPTConfig(ADDING.n_vocab, 8, d_model=32, n_heads=2, n_layers=1, init_std=0.1))
    optimizer = AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    ids = worked_problems(problems, n_new=3)
    counted = answer_mask(ids, 4, ADDING.encode(END)[0])[:, 1:]
    for _ in range(200):
        if rate(model, problems) > 0.33:
            break
        loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:].where(counted, -100))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), problems


def rate(model, problems, n=20, scored=score):
    """The share of fresh answers that are right."""
    prompts = encode_problems(problems).repeat(n, 1)
    end_id = ADDING.encode(END)[0]
    drawn = sample_answers(model, prompts, 3, end_id, generator=torch.Generator().manual_seed(1))
    return statistics.mean(map(scored, problems * n, answers_in(*drawn)))


def trained(half_taught, scored, **changes):
    model, problems = half_taught

    def reward_of(rows, ids, mask):
        pairs = zip(rows.tolist(), answers_in(ids, mask))
        return torch.tensor([scored(problems[row], text) for row, text in pairs])

    settings = PolicyConfig(**dict(steps=40, lr=3e-3, n_prompts=8, max_new_tokens=3, seed=22) | changes)
    return train_policy(model, encode_problems(problems), reward_of, ADDING.encode(END)[0], settings)


def test_rewards_teach(half_taught):
    """The notebook's headline, in small and over another seed."""
    model, problems = half_taught
    before, weights = rate(model, problems), copy.deepcopy(model.state_dict())
    policy, history = trained(half_taught, score)
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert 0.2 < before < 0.7 and rate(policy, problems) > before + 0.15
    rewards = [numbers["reward"] for numbers in history]
    assert statistics.mean(rewards[-10:]) > statistics.mean(rewards[:10]) + 0.1
    assert trained(half_taught, score, steps=3)[1] == history[:3]  # the same seed, the same run


def test_a_hole_in_the_checker_is_found(half_taught):
    def generous(problem, text):
        return float(right_answer(problem).startswith(text.removesuffix(END)))

    policy, history = trained(half_taught, generous, steps=60)
    assert statistics.mean(numbers["reward"] for numbers in history[-10:]) > 0.85
    assert rate(policy, half_taught[1], scored=generous) > rate(policy, half_taught[1]) + 0.4


def test_a_price_on_the_divergence_holds_the_policy_back(half_taught):
    model, problems = half_taught
    prompts = encode_problems(problems).repeat(4, 1)
    moved = {}
    for beta in (0.0, 3.0):
        policy, _ = trained(half_taught, score, beta=beta)
        ids, mask = sample_groups(policy, prompts, 4, 3, ADDING.encode(END)[0], generator=torch.Generator())
        with torch.no_grad():
            k3 = k3_divergence(token_logprobs(policy, ids), token_logprobs(model, ids))
        moved[beta] = k3.where(mask[:, 1:], 0.0).sum(dim=1).mean().item()
    assert moved[3.0] < 0.5 * moved[0.0]


def test_groups_stand_in_a_row(half_taught):
    model, problems = half_taught
    prompts = encode_problems(problems[:3])
    ids, mask = sample_groups(model, prompts, 4, 3, ADDING.encode(END)[0])
    assert ids.shape == mask.shape == (12, 7) and torch.equal(ids[:, :4], prompts.repeat_interleave(4, dim=0))
