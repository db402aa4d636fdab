"""Redaction at the one boundary before disk: what must not be stored is replaced by its kind.

A `Redaction` policy hides secrets (``<API_KEY>``) and personal data (``<EMAIL_1>``, the same
wherever the value stands in its trajectory). It works on the JSON of a record, so it reaches every
string in it: arguments, results, errors, schemas, metadata and dict keys. It fails closed: what
cannot be redacted is not written, and counted.
"""

from rwml.redaction.detectors import Detector, PresidioDetector
from rwml.redaction.failures import describe
from rwml.redaction.names import SECRET, is_secret_name
from rwml.redaction.policy import Redaction
from rwml.redaction.records import DENIED, Redactor, redact_id, redact_model
from rwml.redaction.secrets import redact_secrets
from rwml.redaction.session import Finding, RedactionSession

__all__ = [
    "DENIED",
    "SECRET",
    "Detector",
    "Finding",
    "PresidioDetector",
    "Redaction",
    "RedactionSession",
    "Redactor",
    "describe",
    "is_secret_name",
    "redact_id",
    "redact_model",
    "redact_secrets",
]
