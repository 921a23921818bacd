"""A small model learns from a large one's logits."""

# Written by `make export` from e_smaller.ipynb; change it there.

from .previous_chapters import cross_entropy

__all__ = [
    "distillation_loss",
    "summed_distillation",
]

# %% e_smaller.ipynb #cffb8da3
def distillation_loss(student_logits, teacher_logits, temperature=1.0):
    """T² KL(teacher || student) at temperature T, a mean over tokens in nats: logits (..., V) -> scalar.

    Hinton et al. 2015, section 2. The gradient in the student's logits is T (q - p) / tokens.
    """
    log_p = (teacher_logits / temperature).log_softmax(dim=-1)  # (..., V)
    log_q = (student_logits / temperature).log_softmax(dim=-1)  # (..., V)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def summed_distillation(model, inputs, targets, label_smoothing, *, teacher_logits, temperature, share):
    """For `train_step`: `share` of the teacher's loss and the rest of the text's, summed over tokens, (B, T).

    teacher_logits: (B, T, V), those of these inputs.
    """
    logits = model(inputs)  # (B, T) -> (B, T, V)
    taught = distillation_loss(logits, teacher_logits, temperature) * targets.numel()
    return share * taught + (1 - share) * cross_entropy(logits, targets, label_smoothing, reduction="sum")
