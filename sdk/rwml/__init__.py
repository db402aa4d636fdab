"""rwml: turns the recorded traffic of LLM agents into a better model.

`import rwml` is light (pydantic, SQLAlchemy) and opens nothing; integrations live in
`rwml_adapters` and training in `rwml_trainer`, each behind an extra.
"""

from rwml.errors import RwmlError
from rwml.instrumentation import Instrumentation, instrument
from rwml.recorder import Recorder, RecorderStats
from rwml.schema import Message, Outcome, Step, Tool, ToolCall, Trajectory, Transition
from rwml.store import Store, open_store
from rwml.world_model import WorldModel

__all__ = [
    "Instrumentation",
    "Message",
    "Outcome",
    "Recorder",
    "RecorderStats",
    "RwmlError",
    "Step",
    "Store",
    "Tool",
    "ToolCall",
    "Trajectory",
    "Transition",
    "WorldModel",
    "instrument",
    "open_store",
]
