"""Supervised fine-tuning: a loss on the answers alone, and what is measured of answers."""

# Written by `make export` from g_finetuning.ipynb; change it there.

import functools
import random
import re
from collections import Counter
from typing import NamedTuple

import torch

from .pairs import split_pairs
from .previous_chapters import TrainState, chat_ids, frame_ids, generate, pad_left, train_step

__all__ = [
    "Example",
    "answer_example",
    "chat_example",
    "pad_examples",
    "pass_order",
    "pick_examples",
    "finetune",
    "AnswerScores",
    "scores_of",
    "score_answers",
    "answer_texts",
    "plain_words",
    "exact_match",
    "soft_match",
    "adapt",
]

# %% g_finetuning.ipynb #d5217fef
class Example(NamedTuple):
    """What a model reads, and what should come next after each token: two lists of int, equally long.

    A target of -100 does not count.
    """

    inputs: list[int]
    targets: list[int]


def answer_example(prompt_ids, answer_ids, on_prompt=False):
    """Prompt and answer as one Example. Only the answer has targets, unless on_prompt is True.

    The prompt's last token has the answer's first as its target. Touvron et al. 2023 (Llama 2), section 3.1.
    """
    ids = [*prompt_ids, *answer_ids]
    targets = ids[1:] if on_prompt else [-100] * (len(prompt_ids) - 1) + [*answer_ids]
    return Example(ids[:-1], targets)

# %% g_finetuning.ipynb #90cdda0e
def chat_example(tokenizer, question, answer, shown=(), on_prompt=False):
    """A question and its answer in the chat frame. The answer's targets end with <|im_end|>.

    shown: [(question, answer)] that stand before it as earlier turns, without targets.
    """
    turns = [message for q, a in shown for message in (("user", q), ("assistant", a))]
    prompt_ids, end = chat_ids(tokenizer, [*turns, ("user", question)]), frame_ids(tokenizer)[1]
    return answer_example(prompt_ids, [*tokenizer.encode_ordinary(answer), end], on_prompt)

# %% g_finetuning.ipynb #9cc0b05a
def pad_examples(examples, pad_id=0):
    """Examples of different lengths -> inputs and targets, (B, T) int64 each, filled up on the right.

    The filling has targets of -100, and a causal model's real tokens do not see it: any pad_id will do.
    """
    T = max(len(example.inputs) for example in examples)
    inputs = [[*example.inputs, *[pad_id] * (T - len(example.inputs))] for example in examples]
    targets = [[*example.targets, *[-100] * (T - len(example.targets))] for example in examples]
    return torch.tensor(inputs), torch.tensor(targets)  # (B, T) each

# %% g_finetuning.ipynb #87c592ad
@functools.lru_cache(maxsize=8)  # the same pass is asked for at every step
def pass_order(n, epoch, seed):
    """The numbers 0 .. n - 1 in the order of one pass, a tuple."""
    return tuple(random.Random(seed * 1_000_003 + epoch).sample(range(n), n))


def pick_examples(examples, step, batch_size, seed=0):
    """The examples of step 0, 1, ...: endless passes over all of them, each in an order of its own."""
    places = (divmod(step * batch_size + row, len(examples)) for row in range(batch_size))
    return [examples[pass_order(len(examples), epoch, seed)[place]] for epoch, place in places]

# %% g_finetuning.ipynb #02e46d9d
def finetune(model, examples, config, old=None, old_rows=2):
    """Train a model on Examples by a TrainConfig; returns the TrainState and the loss of every step.

    What has requires_grad=False stays as it is. old: a TokenDataset of what must not be forgotten; each step
    reads old_rows of its windows too, and the loss is the mean over all targets of both.
    """
    state, losses = TrainState.start(model, config), []
    model.train()
    for step in range(config.steps):
        batches = [pad_examples(pick_examples(examples, step, config.batch_size, config.seed))]
        if old is not None:
            batches.append(old.batch(step, old_rows, config.seed))
        losses.append(train_step(state, batches, config)["loss"])
    model.eval()
    return state, losses

# %% g_finetuning.ipynb #23186df6
class AnswerScores(NamedTuple):
    """Of each Example: the mean loss of its targets in nats, (N,), and whether all are the best guess, (N,).

    So `right` says whether greedy decoding gives that very answer.
    """

    losses: torch.Tensor
    right: torch.Tensor

    def summary(self):
        """Mean loss over the examples, its standard error, and the share that is right."""
        error = self.losses.std() / len(self.losses) ** 0.5
        return self.losses.mean().item(), error.item(), self.right.float().mean().item()


def scores_of(logits, targets):
    """AnswerScores of logits (B, T, V) and targets (B, T), in which each row has a target that counts."""
    counted = targets != -100  # (B, T)
    log_p = logits.float().log_softmax(dim=-1)  # (B, T, V)
    nats = -log_p.gather(-1, targets.where(counted, 0).unsqueeze(-1)).squeeze(-1)  # (B, T)
    losses = nats.where(counted, 0.0).sum(dim=1) / counted.sum(dim=1)  # (B,)
    return AnswerScores(losses, ((logits.argmax(dim=-1) == targets) | ~counted).all(dim=1))


@torch.no_grad()
def score_answers(model, examples, batch_size=16):
    """AnswerScores of the Examples, in their order. Those of like length are read together."""
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda n: len(examples[n].inputs))
    losses, right = torch.zeros(len(order)), torch.zeros(len(order), dtype=torch.bool)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs, targets = (part.to(device) for part in pad_examples([examples[n] for n in rows]))
        scores = scores_of(model(inputs), targets)  # (B, T) -> (B, T, V) -> (B,) twice
        losses[rows], right[rows] = scores.losses.cpu(), scores.right.cpu()
    return AnswerScores(losses, right)

# %% g_finetuning.ipynb #bab76033
def answer_texts(model, tokenizer, questions, max_new_tokens=30):
    """What a model answers in the chat frame, greedily: a list of str, each up to its <|im_end|>."""
    end = frame_ids(tokenizer)[1]
    token_ids, padding = pad_left([chat_ids(tokenizer, [("user", question)]) for question in questions])
    device, T = next(model.parameters()).device, token_ids.size(1)
    token_ids, padding = token_ids.to(device), padding.to(device)
    ids = generate(model, token_ids, max_new_tokens, temperature=0, eos_id=end, padding=padding)
    rows = [[*row, end] for row in ids[:, T:].tolist()]  # (B, T + n) -> B lists of n + 1
    return [tokenizer.decode(row[: row.index(end)]).strip() for row in rows]


def plain_words(text):
    """The words of a text in order, in lower case, without punctuation and articles: a list of str."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


def exact_match(answer, expected):
    """Are the plain words the same? Rajpurkar et al. 2016, section 6.1."""
    return plain_words(answer) == plain_words(expected)


def soft_match(answer, expected):
    """Words in common, as F1: harmonic mean of precision and recall. Rajpurkar et al. 2016, section 6.1."""
    got, wanted = Counter(plain_words(answer)), Counter(plain_words(expected))
    return 2 * (got & wanted).total() / max(1, got.total() + wanted.total())

# %% g_finetuning.ipynb #d22ac393
def adapt(model, tokenizer, pairs, config, share=0.2, old=None):
    """Fine-tune a model, in place, on Pairs by a TrainConfig; returns a report, a dict.

    A `share` of the questions is held out and measured before and after. Pairs that are longer than the
    context are left out, and counted. old: a TokenDataset to rehearse. ValueError when too few are left.
    """
    sides, limit = [], model.config.context_length
    for part in split_pairs(pairs, share, config.seed):
        examples = [chat_example(tokenizer, pair.question, pair.answer) for pair in part]
        sides.append([example for example in examples if len(example.inputs) <= limit])
    training, held_out = sides
    if not training or len(held_out) < 2:
        n, m = len(training), len(held_out)
        raise ValueError(f"{n} pairs and {m} held out fit context_length={limit}; give more, or shorter ones")
    before = score_answers(model, held_out)
    finetune(model, training, config, old)
    after = score_answers(model, held_out)
    gain = AnswerScores(before.losses - after.losses, after.right).summary()[:2]
    counts = {"training": len(training), "held_out": len(held_out)}
    counts["left_out"] = len(pairs) - sum(counts.values())
    return counts | {"before": before.summary(), "after": after.summary(), "gain": gain}
