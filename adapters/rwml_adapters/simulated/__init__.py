"""Dry runs: an agent's tool calls are answered by a world model, and no tool is run."""

from rwml_adapters.simulated.environment import SimulatedEnv

__all__ = ["SimulatedEnv"]
