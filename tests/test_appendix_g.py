"""Appendix G, supervised fine-tuning: what counts in the loss, what is split, and what is learned."""

import copy
import itertools
import statistics
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from appendix.g_finetuning.pairs import (
    Pair,
    alike,
    load_pairs,
    question_groups,
    read_pairs,
    split_pairs,
    word_set,
)
from appendix.g_finetuning.supervised import (
    Example,
    adapt,
    answer_example,
    answer_texts,
    chat_example,
    exact_match,
    finetune,
    pad_examples,
    pick_examples,
    score_answers,
    scores_of,
    soft_match,
)
from ch01_tokenization.tokenizer import BPETokenizer
from ch04_transformer.transformer import GPT, GPTConfig
from ch05_training.config import TrainConfig
from ch05_training.data import TokenDataset
from ch05_training.optimization import cross_entropy
from ch05_training.step import evaluate, train_step
from ch05_training.training import TrainState
from ch06_inference.chat import chat_ids

LLAMA = dict(norm="rmsnorm", activation="swiglu", position="rope", n_kv_heads=2)
SMALL = GPTConfig(vocab_size=40, context_length=16, d_model=16, n_heads=4, n_layers=2, **LLAMA)
EXAMPLES = [answer_example([1, 2, 3, n][: 1 + n % 4], [n + 1, 7, 0][n % 3 :]) for n in range(4, 20)]


def config(steps, max_lr=3e-3, seed=0, batch_size=8):
    settings = dict(warmup_steps=1, weight_decay=0.0, device="cpu", seed=seed, batch_size=batch_size)
    return TrainConfig(steps=steps, max_lr=max_lr, **settings)


@pytest.fixture(scope="module")
def chat_tokenizer(plays):
    return BPETokenizer.train(plays["hamlet"], 512, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))


# ---------------------------------------------------------------- pairs


def test_the_corpus_has_the_copies_that_the_notebook_tells_of():
    pairs = read_pairs()
    copies = Counter(pairs)
    assert (len(pairs), len(copies)) == (2026, 899)
    assert sum(n for _, n in copies.most_common(10)) == 1050
    assert {pair.topic for pair, _ in copies.most_common(10)} == {"tech_support"}
    kept = load_pairs()
    assert len(kept) == len(set(kept)) == 760 and set(kept) <= set(pairs)
    assert all(0 < len(text) <= 100 and text == " ".join(text.split()) for pair in kept for text in pair[1:])


def test_groups_are_the_transitive_closure_in_any_order():
    random = torch.Generator().manual_seed(3)
    words = "abcdefg"
    questions = [
        " ".join(w for w in words if torch.rand((), generator=random) < 0.6) or "a" for _ in range(40)
    ]
    for order in (questions, questions[::-1]):
        group = question_groups(order)
        for one in group:
            reached, rest = {one}, [one]
            while rest:
                now = word_set(rest.pop())
                more = {other for other in group if alike(now, word_set(other))} - reached
                reached |= more
                rest += more
            assert reached == {other for other in group if group[other] == group[one]}
    assert len(set(group.values())) > 1


@pytest.mark.parametrize("seed", range(4))
def test_no_question_nor_one_alike_is_on_both_sides(seed):
    pairs = load_pairs()
    training, held_out = split_pairs(pairs, 0.2, seed)
    assert Counter(training + held_out) == Counter(pairs)
    assert 0.2 * len(pairs) <= len(held_out) < 0.2 * len(pairs) + 10
    left, right = ({word_set(pair.question) for pair in part} for part in (training, held_out))
    assert not any(alike(a, b) for a, b in itertools.product(left, right))
    assert split_pairs(pairs, 0.2, seed) == (training, held_out) != split_pairs(pairs, 0.2, seed + 1)


# ---------------------------------------------------------------- examples


def test_the_border_by_hand():
    assert answer_example([7, 8, 9], [4, 5, 2]) == ([7, 8, 9, 4, 5], [-100, -100, 4, 5, 2])
    assert answer_example([7, 8, 9], [4, 5, 2], on_prompt=True) == ([7, 8, 9, 4, 5], [8, 9, 4, 5, 2])
    assert answer_example([7], [2]) == ([7], [2])


def test_the_chat_frame_has_targets_on_the_last_answer_alone(chat_tokenizer):
    t = chat_tokenizer
    example = chat_example(t, "Who?", "I.", shown=[("What?", "That."), ("When?", "Now.")])
    counted = [target for target in example.targets if target != -100]
    assert t.decode(counted) == "I.<|im_end|>" and example.targets[-len(counted) :] == counted
    turns = [("user", "What?"), ("assistant", "That."), ("user", "When?"), ("assistant", "Now.")]
    prompt = chat_ids(t, [*turns, ("user", "Who?")])
    assert example.inputs == [*prompt, *counted[:-1]]
    every = chat_example(t, "Who?", "I.", on_prompt=True)
    assert every.targets == [*every.inputs[1:], counted[-1]]
    spoof = chat_example(t, "Who?<|im_end|>", "I.")
    assert spoof.inputs.count(counted[-1]) == 1  # that of the frame


def test_the_loss_and_its_gradient_are_those_of_the_answer_cut_out():
    model = GPT(SMALL).double()
    inputs, targets = pad_examples(EXAMPLES)
    logits = model(inputs)
    rows = [(row, len(e.inputs), e.targets.count(-100)) for row, e in enumerate(EXAMPLES)]
    cut = torch.cat([logits[row, start:stop] for row, stop, start in rows])
    goals = torch.cat([targets[row, start:stop] for row, stop, start in rows])
    assert (goals != -100).all() and len(goals) == sum(3 - n % 3 for n in range(4, 20))
    losses = F.cross_entropy(cut, goals), cross_entropy(logits, targets)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses]
    assert torch.allclose(*losses, atol=1e-12) and torch.allclose(*gradients, atol=1e-12)
    assert not gradients[1][targets == -100].any()
    assert (gradients[1][targets != -100].norm(dim=-1) > 0).all()


def test_it_is_the_loss_of_transformers():
    transformers = pytest.importorskip("transformers")
    from ch06_inference.convert import to_hf
    from ch06_inference.model_settings import config_to_hf

    model = GPT(SMALL)
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config_to_hf(SMALL)))
    theirs.load_state_dict(to_hf(model.state_dict(), SMALL), strict=False)
    for prompt, answer in (([5, 6, 7, 8], [9, 2]), ([5], [4, 3, 2])):
        inputs, targets = pad_examples([answer_example(prompt, answer)])
        labels = torch.tensor([[-100] * len(prompt) + answer])  # it shifts them itself
        their_loss = theirs(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
        assert torch.allclose(cross_entropy(model(inputs), targets), their_loss, atol=1e-5)


def test_the_question_matters_though_it_has_no_loss():
    model = GPT(SMALL).double()
    losses = []
    for prompt in ([1, 2, 3], [1, 5, 3]):
        inputs, targets = pad_examples([answer_example(prompt, [4, 2])])
        losses.append(cross_entropy(model(inputs), targets).item())
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("pad_id", [0, 7, 39])
def test_filling_changes_neither_the_loss_nor_a_gradient(pad_id):
    model = GPT(SMALL).double()
    reference = torch.cat([score_answers(model, [example]).losses for example in EXAMPLES])
    inputs, targets = pad_examples(EXAMPLES, pad_id)
    assert inputs.shape == targets.shape == (16, 6)
    assert torch.allclose(scores_of(model(inputs), targets).losses.float(), reference, atol=1e-6)
    whole = torch.autograd.grad(cross_entropy(model(inputs), targets, reduction="sum"), model.parameters())
    alone = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for example in EXAMPLES:
        inputs, targets = pad_examples([example])
        loss = cross_entropy(model(inputs), targets, reduction="sum")
        alone = [a + g for a, g in zip(alone, torch.autograd.grad(loss, model.parameters()), strict=True)]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(whole, alone, strict=True))


def test_each_pass_has_every_example_once_in_its_own_order():
    picked = [number for step in range(14) for number in pick_examples(range(10), step, 5, seed=3)]
    passes = [picked[start : start + 10] for start in range(0, 70, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 7
    assert picked == [n for step in range(10) for n in pick_examples(range(10), step, 7, seed=3)]
    assert picked[:10] != pick_examples(range(10), 0, 10, seed=4)


# ---------------------------------------------------------------- training


def test_finetune_is_a_plain_loop_over_answers_and_old_text():
    old = TokenDataset(torch.randint(40, (200,)).tolist(), context_length=8)
    ours, theirs = (GPT(SMALL).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = config(3)
    _, losses = finetune(ours, EXAMPLES, settings, old=old, old_rows=2)
    optimizer = torch.optim.AdamW(theirs.parameters(), betas=settings.betas, weight_decay=0.0)
    for step in range(3):
        rows = [Example(*row) for row in pick_examples(EXAMPLES, step, 8)]
        rows += [Example(*(part.tolist() for part in row)) for row in zip(*old.batch(step, 2), strict=True)]
        inputs, targets = pad_examples(rows)
        logits = theirs(inputs).flatten(0, 1)
        loss = F.cross_entropy(logits, targets.flatten())
        assert abs(loss.item() - losses[step]) < 1e-9
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), settings.max_norm)
        optimizer.param_groups[0]["lr"] = settings.rate(step)
        optimizer.step()
    for name, parameter in theirs.named_parameters():
        assert torch.allclose(parameter, ours.get_parameter(name), atol=1e-8), name


def test_what_is_frozen_stays():
    model = GPT(SMALL)
    model.blocks[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    finetune(model, EXAMPLES, config(3))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("blocks.0") for name in moved) and any(
        "blocks.1" in name for name in moved
    )


@pytest.fixture(scope="module")
def parrot(chat_tokenizer):
    """A model that knows six answers by heart, and their pairs."""
    pairs = [p for p in load_pairs() if p.topic == "trivia" and len(p.answer) < 12][:6]
    examples = [chat_example(chat_tokenizer, p.question, p.answer) for p in pairs]
    torch.manual_seed(0)
    model = GPT(GPTConfig(512, context_length=128, d_model=32, n_heads=4, n_layers=2, **LLAMA))
    finetune(model, examples, config(100, 2e-2, batch_size=6))
    return model, pairs, examples


def test_right_is_what_greedy_decoding_says(parrot, chat_tokenizer):
    model, pairs, examples = parrot
    others = [Pair("", pair.question, f"{pair.answer}!") for pair in pairs[:2]]
    examples = examples + [chat_example(chat_tokenizer, p.question, p.answer) for p in others]
    right = score_answers(model, examples, batch_size=3).right
    questions = [pair.question for pair in pairs + others]
    said = answer_texts(model, chat_tokenizer, questions, 20)
    assert right.tolist() == [a == p.answer for a, p in zip(said, pairs + others, strict=True)]
    assert right.tolist() == [True] * 6 + [False] * 2
    assert said == [answer_texts(model, chat_tokenizer, [question], 20)[0] for question in questions]


def test_scores_keep_the_order_and_are_means_over_the_answer(parrot):
    model, _, examples = parrot
    losses = score_answers(model, examples, batch_size=4).losses
    for example, loss in zip(examples, losses, strict=True):
        inputs, targets = pad_examples([example])
        assert abs(cross_entropy(model(inputs), targets).item() - loss.item()) < 1e-5
    mean, error, right = score_answers(model, examples).summary()
    assert mean == pytest.approx(statistics.mean(losses.tolist()), abs=1e-6) and right == 1
    assert error == pytest.approx(statistics.stdev(losses.tolist()) / 6**0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "soft"),
    [
        ("The Red Sea.", "red sea", True, 1.0),
        ("the sea", "The red sea", False, 2 / 3),
        ("Paris", "Rome", False, 0.0),
        ("no no", "no", False, 2 / 3),
        ("", "Rome", False, 0.0),
        ("sea red", "red sea", False, 1.0),
        ("1963", "'1963'", True, 1.0),
    ],
)
def test_matches(answer, expected, exact, soft):
    assert exact_match(answer, expected) == exact and soft_match(answer, expected) == pytest.approx(soft)


# ---------------------------------------------------------------- what the notebook claims, on another seed


@pytest.fixture(scope="module")
def claims(plays, chat_tokenizer):
    """Fine-tunings of one small model: held-out answers and plays, by kind, and what was before."""
    seed = 11
    old = TokenDataset.from_texts([plays["hamlet"]], chat_tokenizer, 64)
    asked = TokenDataset.from_texts([plays["macbeth"][:6000]], chat_tokenizer, 64)
    torch.manual_seed(seed)
    model = GPT(GPTConfig(512, context_length=128, d_model=32, n_heads=4, n_layers=2, **LLAMA))
    settings = config(150, 6e-3, seed, batch_size=16)
    state = TrainState.start(model, settings)
    for step in range(150):
        train_step(state, [old.batch(step, 16, seed)], settings)
    training, held_out = split_pairs(load_pairs(60), seed=seed)

    def examples(pairs, **options):
        return [chat_example(chat_tokenizer, p.question, p.answer, **options) for p in pairs]

    asked_answers, results = examples(held_out), {}

    def measure(model):
        return score_answers(model, asked_answers).losses, evaluate(model, asked)["bits_per_byte"]

    results["before"] = measure(model)
    runs = {
        "answers": (examples(training), {}),
        "everything": (examples(training, on_prompt=True), {}),
        "rehearsed": (examples(training), dict(old=old)),
    }
    for name, (rows, options) in runs.items():
        copied = copy.deepcopy(model)
        finetune(copied, rows, config(60, 6e-3, seed), **options)
        results[name] = measure(copied)
    return results


def test_fine_tuning_helps_held_out_answers(claims):
    gain = claims["before"][0] - claims["answers"][0]
    assert gain.mean() > 0.5 and gain.mean() > 5 * gain.std() / len(gain) ** 0.5


def test_a_loss_on_the_answers_alone_is_better_for_answers(claims):
    worse = claims["everything"][0] - claims["answers"][0]
    assert worse.mean() > 0.02


def test_it_forgets_and_rehearsal_keeps(claims):
    lost = {name: bits - claims["before"][1] for name, (_, bits) in claims.items()}
    assert lost["answers"] > 0.2 and lost["rehearsed"] < 0.5 * lost["answers"]
    assert claims["rehearsed"][0].mean() < claims["before"][0].mean() - 0.4


def test_adapt_reports_what_it_did(chat_tokenizer):
    pairs = load_pairs(60)[:80] + [Pair("long", "why " * 100, "Because.")]
    model = GPT(GPTConfig(512, context_length=96, d_model=16, n_heads=4, n_layers=1, **LLAMA))
    report = adapt(model, chat_tokenizer, pairs, config(10))
    assert report["training"] + report["held_out"] + report["left_out"] == 81 and report["left_out"] >= 1
    gain = report["before"][0] - report["after"][0]
    assert report["gain"][0] == pytest.approx(gain, abs=1e-5) and gain > 0 and report["gain"][1] > 0
    with pytest.raises(ValueError, match="held out fit context_length=96; give more, or shorter"):
        adapt(model, chat_tokenizer, pairs[-1:], config(1))
