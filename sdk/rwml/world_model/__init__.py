"""Asks a trained world model what will happen, and how surprising it is what did.

`WorldModel` is the client; `rwml.world_model.monitoring` watches recorded traffic with it.
"""

from rwml.world_model.model import WorldModel
from rwml.world_model.predictions import Prediction, Problem, Scored

__all__ = ["Prediction", "Problem", "Scored", "WorldModel"]
