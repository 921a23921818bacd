"""Appendix G: answers that are right in another way, and answers that are wrong in a typical way."""

LAYER = """def lora_forward(x, W, A, B, alpha):
    adapter = torch.einsum("or,ri->oi", B, A)
    return torch.einsum("...i,oi->...o", x, W + adapter * (alpha / A.shape[0]))


def lora_merge(W, A, B, alpha):
    merged = W.clone()
    for a, b in zip(A, B.T):
        merged = merged + torch.outer(b, a) * alpha / A.shape[0]
    return merged
"""

VARIANTS = {
    "G.1": """def answer_targets(prompt_ids, answer_ids):
    text = [*prompt_ids, *answer_ids]
    inputs, targets = [], []
    for position in range(len(text) - 1):
        inputs.append(text[position])
        targets.append(text[position + 1] if position + 1 >= len(prompt_ids) else -100)
    return inputs, targets
""",
    "G.2": """def last_vectors(vectors, lengths):
    D = vectors.size(2)
    places = (lengths - 1).view(-1, 1, 1).expand(-1, 1, D)
    return vectors.gather(1, places)[:, 0]
""",
    "G.3": LAYER,
    "G.4": """def answer_logprob(logits, token_ids, mask):
    targets = token_ids.masked_fill(~mask, -100)[:, 1:]
    scores = logits[:, :-1].flatten(0, 1)
    losses = F.cross_entropy(scores, targets.flatten(), reduction="none", ignore_index=-100)
    return -losses.view(targets.shape).sum(dim=1)
""",
    "G.5": """def preference_losses(chosen, rejected, reference_chosen, reference_rejected, beta):
    policy = chosen - rejected
    reference = reference_chosen - reference_rejected
    return F.softplus(-beta * (policy - reference))
""",
    "G.6": """def advantages_of(rewards):
    rows = []
    for row in rewards:
        centred = row - row.sum() / len(row)
        variance = (centred * centred).sum() / (len(row) - 1)
        rows.append(centred / (variance.sqrt() + 1e-6))
    return torch.stack(rows)
""",
    "G.7": """def clipped_loss(new_logp, old_logp, advantages, mask, clip=0.2):
    total = 0.0
    for row in range(len(mask)):
        real = mask[row]
        ratio, A = torch.exp(new_logp[row][real] - old_logp[row][real]), advantages[row]
        bound = ratio.clamp(max=1 + clip) if A > 0 else ratio.clamp(min=1 - clip)
        total = total + (bound * A).mean()
    return -total / len(mask)
""",
    "G.8": """def k3(logp, reference_logp):
    return torch.expm1(reference_logp - logp) + (logp - reference_logp)
""",
}

MUTANTS = {
    "G.1": [
        (
            "answer's first token has no target",
            "(len(prompt_ids) - 1) + answer_ids",
            "len(prompt_ids) + answer_ids[1:]",
        ),
        (
            "One token of the prompt has a target",
            "[-100] * (len(prompt_ids) - 1) + answer_ids",
            "([-100] * (len(prompt_ids) - 2) + ids[max(1, len(prompt_ids) - 1):])",
        ),
        ("whole prompt has targets", "[-100] * (len(prompt_ids) - 1) + answer_ids", "ids[1:]"),
        (
            "targets are the inputs themselves",
            "[-100] * (len(prompt_ids) - 1) + answer_ids",
            "([-100] * len(prompt_ids) + answer_ids)[:-1]",
        ),
        ("inputs have the last token too", "ids[:-1],", "ids,"),
        ("0 is the id of a token", "-100", "0"),
        ("is -1 here", "-100", "-1"),
        ("end token has no target", "- 1) + answer_ids", "- 1) + answer_ids[:-1] + [-100]"),
        (
            "decided by the ids",
            "[-100] * (len(prompt_ids) - 1) + answer_ids",
            "[-100 if t in prompt_ids else t for t in ids[1:]]",
        ),
        ("inputs are the prompt alone", "ids[:-1],", "prompt_ids,"),
        ("inputs are right, and the targets are not", "- 1) + answer_ids", "- 1) + answer_ids[::-1]"),
        (
            "It changes its arguments",
            "ids = prompt_ids + answer_ids",
            "ids = prompt_ids; n = len(ids); ids += answer_ids\n"
            "    return ids[:-1], [-100] * (n - 1) + answer_ids",
        ),
    ],
    "G.2": [
        ("last column is taken", "return vectors[rows, lengths - 1]", "return vectors[:, -1]"),
        ("column is one too far", "lengths - 1]", "lengths.clamp(max=vectors.size(1) - 1)]"),
        ("column is one too far", "lengths - 1]", "lengths]"),
        ("first token's vector", "return vectors[rows, lengths - 1]", "return vectors[:, 0]"),
        (
            "are averaged",
            "return vectors[rows, lengths - 1]",
            "return torch.stack([v[:n].mean(0) for v, n in zip(vectors, lengths)])",
        ),
        ("taken from all rows", "vectors[rows, lengths - 1]", "vectors[:, lengths - 1]"),
        ("counted from the right", "lengths - 1]", "-lengths]"),
        ("shortest row decides", "lengths - 1]", "lengths.min() - 1]"),
        (
            "dimension of size 1 is still there",
            "return vectors[rows, lengths - 1]",
            "return vectors.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, vectors.size(2)))",
        ),
        (
            "added up",
            "return vectors[rows, lengths - 1]",
            "return torch.stack([v[:n].sum(0) for v, n in zip(vectors, lengths)])",
        ),
    ],
    "G.3": [
        (
            "The factor is alpha.",
            LAYER.replace("(alpha / A.shape[0])", "alpha").replace("alpha / A.shape[0]", "alpha"),
        ),
        (
            "factor alpha / rank is missing",
            LAYER.replace("* (alpha / A.shape[0])", "").replace("* alpha / A.shape[0]", ""),
        ),
        ("divides by B's rows or A's columns", LAYER.replace("A.shape[0]", "B.shape[0]")),
        ("divides by B's rows or A's columns", LAYER.replace("A.shape[0]", "A.shape[1]")),
        (
            "other way round",
            LAYER.replace("(alpha / A.shape[0])", "(len(A) / alpha)").replace(
                "alpha / A.shape[0]", "len(A) / alpha"
            ),
        ),
        (
            "alpha times the rank",
            LAYER.replace("(alpha / A.shape[0])", "(alpha * len(A))").replace(
                "alpha / A.shape[0]", "alpha * len(A)"
            ),
        ),
        ("square root of the rank", LAYER.replace("A.shape[0]", "A.shape[0] ** 0.5")),
        (
            "W itself is missing",
            LAYER.replace("W + adapter", "adapter").replace("W.clone()", "torch.zeros_like(W)"),
        ),
        (
            "The adapter is subtracted",
            LAYER.replace("W + adapter", "W - adapter").replace("merged + torch", "merged - torch"),
        ),
        (
            "no effect",
            LAYER.replace("W + adapter * (alpha / A.shape[0])", "W").replace(
                "merged + torch", "merged + 0 * torch"
            ),
        ),
        (
            "multiplies W too",
            LAYER.replace("W + adapter * (alpha / A.shape[0])", "(W + adapter) * (alpha / len(A))").replace(
                "merged = W.clone()", "merged = W * alpha / len(A)"
            ),
        ),
        (
            "It changes its arguments",
            LAYER.replace("merged = W.clone()", "merged = W").replace("merged = merged +", "merged +="),
        ),
        ("forward pass is right, and the merged", LAYER.replace("return merged", "return merged + 1")),
        (
            "merged matrix is right, and the forward",
            LAYER.replace("return torch.einsum", "return 2 * torch.einsum"),
        ),
    ],
    "G.4": [
        (
            "judged by the logits at its own position",
            """def answer_logprob(logits, token_ids, mask):
    log_p = logits.log_softmax(dim=-1)
    chosen = log_p.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    return (chosen * mask).sum(dim=-1)
""",
        ),
        ("mask is not shifted", "mask[:, 1:]", "mask[:, :-1]"),
        ("prompt's tokens are counted too", "(chosen * mask[:, 1:])", "chosen"),
        ("The mean over the answer", ".sum(dim=-1)  # (B,)", ".sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)"),
        ("Logits are added up", "logits[:, :-1].log_softmax(dim=-1)", "logits[:, :-1]"),
        ("Probabilities are added up", "log_softmax", "softmax"),
        ("softmax is computed first", "log_softmax(dim=-1)", "softmax(dim=-1).log()"),
        (
            "softmax is computed first",
            """def answer_logprob(logits, token_ids, mask):
    scores = torch.exp(logits[:, :-1])
    p = scores / scores.sum(dim=-1, keepdim=True)
    chosen = p.gather(-1, token_ids[:, 1:].unsqueeze(-1)).squeeze(-1).log()
    return torch.stack([row[keep].sum() for row, keep in zip(chosen, mask[:, 1:])])
""",
        ),
        ("sign is turned round", "return (", "return -("),
        ("softmax runs over the positions", "log_softmax(dim=-1)", "log_softmax(dim=1)"),
        ("rows are added up too", ".sum(dim=-1)  # (B,)", ".sum()"),
        ("probability is returned", ".sum(dim=-1)  # (B,)", ".sum(dim=-1).exp()"),
        ("mask is turned round", "* mask[:, 1:]", "* ~mask[:, 1:]"),
        ("above 0", "(chosen * mask[:, 1:]).sum", "(chosen * mask[:, 1:] + 3).sum"),
    ],
    "G.5": [
        (
            "reference is left out",
            "((chosen - reference_chosen) - (rejected - reference_rejected))",
            "(chosen - rejected)",
        ),
        ("exchanged", "beta * (", "-beta * ("),
        ("beta is missing", "beta * (", "("),
        ("gains are added", ") - (rejected", ") + (rejected"),
        (
            "divided by beta",
            "margin = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))",
            "margin = ((chosen - reference_chosen) - (rejected - reference_rejected)) / beta",
        ),
        ("sigmoid of the margin is returned", "-F.logsigmoid(margin)", "torch.sigmoid(margin)"),
        ("minus sign is missing", "-F.logsigmoid", "F.logsigmoid"),
        ("sigmoid is computed first", "F.logsigmoid(margin)", "torch.log(torch.sigmoid(margin))"),
        ("cut off", "F.logsigmoid(margin)", "torch.log(torch.sigmoid(margin) + 1e-12)"),
        ("cut off", "F.logsigmoid(margin)", "torch.sigmoid(margin).clamp(min=1e-10).log()"),
        ("cut off", "F.logsigmoid(margin)", "F.logsigmoid(margin.clamp(-50, 50))"),
        ("mean over the pairs", "F.logsigmoid(margin)", "F.logsigmoid(margin).mean()"),
        ("margin itself", "-F.logsigmoid(margin)", "-margin"),
        (
            "reference is added",
            "((chosen - reference_chosen) - (rejected - reference_rejected))",
            "(chosen + reference_chosen - rejected - reference_rejected)",
        ),
        ("below 0", "-F.logsigmoid(margin)", "-F.logsigmoid(margin) - 1"),
    ],
    "G.6": [
        (
            "those of all rewards",
            """def advantages_of(rewards):
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)
""",
        ),
        ("The mean is that of all rewards", "rewards.mean(dim=1, keepdim=True)", "rewards.mean()"),
        ("deviation is that of all rewards", "rewards.std(dim=1, keepdim=True)", "rewards.std()"),
        (
            "along the columns",
            """def advantages_of(rewards):
    return (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-6)
""",
        ),
        ("division by the standard deviation is missing", "/ (deviation + 1e-6)", ""),
        ("mean is not subtracted", "(rewards - mean)", "rewards"),
        ("variance is divided by", "rewards.std(", "rewards.var("),
        (
            "deviation divides by G",
            "keepdim=True)  # (Q, 1)\n    return",
            "keepdim=True, correction=0)\n    return",
        ),
        ("divides 0 by 0", "(deviation + 1e-6)", "deviation"),
        (
            "range of the group",
            "deviation = rewards.std(dim=1, keepdim=True)",
            "deviation = (rewards.max(1).values - rewards.min(1).values).unsqueeze(1)",
        ),
        (
            "median is subtracted",
            "rewards.mean(dim=1, keepdim=True)",
            "rewards.median(dim=1, keepdim=True).values",
        ),
        ("sign is turned round", "(rewards - mean)", "(mean - rewards)"),
        (
            "best reward of the group",
            "rewards.mean(dim=1, keepdim=True)",
            "rewards.amax(dim=1, keepdim=True)",
        ),
        ("does not have the mean 0", "return (rewards - mean)", "return 1 + (rewards - mean)"),
    ],
    "G.7": [
        ("never clipped", "torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)", "ratio * A"),
        (
            "clipped ratio counts always",
            "torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)",
            "ratio.clamp(1 - clip, 1 + clip) * A",
        ),
        ("larger of both", "torch.minimum", "torch.maximum"),
        (
            "smaller ratio is taken",
            "torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)",
            "torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * A",
        ),
        ("upside down", "(new_logp - old_logp)", "(old_logp - new_logp)"),
        ("exponential is missing", "(new_logp - old_logp).exp()", "(new_logp - old_logp)"),
        ("log-probabilities are divided", "(new_logp - old_logp).exp()", "new_logp / old_logp"),
        ("minus sign is missing", "return -", "return "),
        ("all tokens of all answers", "return -per_answer.mean()", "return -gain[mask].mean()"),
        ("divided by T", ".sum(dim=1) / mask.sum(dim=1)", ".mean(dim=1)"),
        ("tokens of an answer are added up", " / mask.sum(dim=1)", ""),
        ("multiplied by the mask", "gain.where(mask, 0.0)", "(gain * mask)"),
        ("mask is not used", "gain.where(mask, 0.0).sum(dim=1) / mask.sum(dim=1)", "gain.mean(dim=1)"),
        ("from above alone", "ratio.clamp(1 - clip, 1 + clip)", "ratio.clamp(max=1 + clip)"),
        ("bounds are -clip and clip", "clamp(1 - clip, 1 + clip)", "clamp(-clip, clip)"),
        (
            "product with the advantage is clipped",
            "ratio.clamp(1 - clip, 1 + clip) * A",
            "(ratio * A).clamp(1 - clip, 1 + clip)",
        ),
        ("always 0.2", "clamp(1 - clip, 1 + clip)", "clamp(0.8, 1.2)"),
        ("answers are added up", "per_answer.mean()", "per_answer.sum()"),
    ],
    "G.8": [
        ("upside down", "reference_logp - logp", "logp - reference_logp"),
        ("ln p - ln q itself", "d.exp() - d - 1", "-d"),
        ("ln q - ln p", "d.exp() - d - 1", "d"),
        ("1 is not subtracted", " - d - 1", " - d"),
        ("added where it is subtracted", "- d - 1", "+ d - 1"),
        ("d itself is missing", "- d - 1", "- 1"),
        ("k2", "d.exp() - d - 1", "0.5 * d.square()"),
        ("The mean is returned", "d.exp() - d - 1", "(d.exp() - d - 1).mean()"),
        ("The sum is returned", "d.exp() - d - 1", "(d.exp() - d - 1).sum()"),
        ("weighted by the policy's probability", "return d.exp() - d - 1", "return -logp.exp() * d"),
        ("sign is turned round", "return d.exp() - d - 1", "return -(d.exp() - d - 1)"),
        ("absolute value", "d.exp() - d - 1", "d.abs()"),
        ("An estimate is negative", "- d - 1", "- d - 2"),
    ],
}
