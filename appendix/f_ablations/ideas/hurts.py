"""An idea that hurts a short training: a fifth of all numbers is switched off in every step."""

from appendix.f_ablations.harness import Variant

IDEA = Variant("dropout 0.2", model={"dropout": 0.2})
