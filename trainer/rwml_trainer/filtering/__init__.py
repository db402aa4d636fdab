"""Finds samples that are too easy to learn from (RWML sec. 2.2), and thresholds of the gap."""

from rwml_trainer.filtering.easy import EasySampleFilter
from rwml_trainer.filtering.measuring import Measured, measure
from rwml_trainer.filtering.sampling import Sampler, make_sampler
from rwml_trainer.filtering.thresholds import choose_tau_d, easy_share, training_tau_d

__all__ = [
    "EasySampleFilter",
    "Measured",
    "Sampler",
    "choose_tau_d",
    "easy_share",
    "make_sampler",
    "measure",
    "training_tau_d",
]
