"""Secrets by their shape: keys, tokens, private keys, passwords in URLs, signed links.

A shape is hidden wherever it stands, and whole: what is as long as a book is still one token.
Nothing here may take more time than in proportion to the text. Shapes are those that the vendors
document for their own secret scanners; the choice is ours.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from rwml.redaction.edits import Edit, Pass, apply_edits
from rwml.redaction.names import SECRET, named_edits

START = r"(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrtv])|(?<=\\u[0-9a-fA-F]{4})|(?<=%[0-9a-fA-F]{2}))"
r"""Where a word begins; also behind an escape of JSON inside a text (``\nsk-...``) or of a URL."""
ROUNDS = 8
"""How often a text is cleaned until nothing is found; a text that needs more is hidden (ours)."""
_END = r"(?![A-Za-z0-9])"

_PRIVATE_KEY = re.compile(
    r"-----BEGIN[ A-Z]{0,64}PRIVATE KEY(?:[ ]BLOCK)?-----"
    r".*?(?:-----END[ A-Z]{0,64}PRIVATE KEY(?:[ ]BLOCK)?-----|\Z)",
    re.DOTALL,
)
_TOKENS = (
    r"(?:sk|pk|rk)-[A-Za-z0-9_\-]{16,}",  # OpenAI, Anthropic, Langfuse, OpenRouter, LiteLLM
    r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{8,}",  # Stripe
    r"whsec_[A-Za-z0-9+/]{20,}",  # Stripe webhooks
    r"gh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|oas)-[A-Za-z0-9_\-]{12,}",  # GitLab
    r"hf_[A-Za-z0-9]{20,}",  # Hugging Face
    r"xox[abeprs](?:\.xox[bp])?-[A-Za-z0-9\-]{10,}",  # Slack
    r"xapp-[0-9]-[A-Za-z0-9\-]{10,}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_\-]{16,}",
    r"rubygems_[0-9a-f]{32,}",
    r"dckr_pat_[A-Za-z0-9_\-]{20,}",
    r"AIza[0-9A-Za-z_\-]{35,}",  # Google
    r"ya29\.[A-Za-z0-9_\-.]{20,}",
    r"GOCSPX-[A-Za-z0-9_\-]{20,}",
    r"1//0[A-Za-z0-9_\-]{30,}",
    r"[A-Za-z0-9_~.]{3}8Q~[A-Za-z0-9_~.\-]{31,}",  # Microsoft Entra
    r"gsk_[A-Za-z0-9]{20,}",  # Groq
    r"xai-[A-Za-z0-9]{20,}",
    r"pplx-[A-Za-z0-9]{20,}",
    r"r8_[A-Za-z0-9]{30,}",  # Replicate
    r"nvapi-[A-Za-z0-9_\-]{20,}",
    r"pcsk_[A-Za-z0-9_]{20,}",  # Pinecone
    r"tvly-[A-Za-z0-9\-]{16,}",
    r"lsv2_(?:pt|sk)_[A-Za-z0-9_]{20,}",  # LangSmith
    r"dapi[0-9a-f]{32,}",  # Databricks
    r"SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",  # SendGrid
    r"SK[0-9a-f]{32,}",  # Twilio
    r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32,}",  # Shopify
    r"sq0[a-z]{3}-[A-Za-z0-9_\-]{20,}",  # Square
    r"do[opr]_v1_[a-f0-9]{40,}",  # DigitalOcean
    r"hv[sb]\.[A-Za-z0-9_\-]{20,}",  # Vault
    r"lin_api_[A-Za-z0-9]{20,}",
    r"ntn_[A-Za-z0-9]{20,}",  # Notion
    r"ATATT3[A-Za-z0-9_\-=]{20,}",  # Atlassian
    r"AGE-SECRET-KEY-1[0-9A-Z]{40,}",
    r"[0-9]{8,10}:AA[A-Za-z0-9_\-]{33,}",  # Telegram
)
_SHAPES = re.compile(
    rf"""
      (?P<credentials>(?<=://)[^\s/:@"']{{0,256}}:[^\s/"']{{0,1024}}(?=@)
        |(?<![\w.\-])[\w.\-]{{1,64}}:[^\s:@/"']{{1,256}}(?=@(?:tcp|unix|udp)\())
    | {START}(?:
        (?P<aws_key>A(?:KI|SI|BI|CC)A[0-9A-Z]{{16}}{_END}|ABSK[A-Za-z0-9+/]{{60,}}=*)
      | (?P<api_key>{"|".join(_TOKENS)})
      | (?P<jwt>eyJ[A-Za-z0-9_\-]{{8,}}\.[A-Za-z0-9_\-]{{8,}}\.[A-Za-z0-9_\-]+)
      | (?P<private_key>LS0tLS1CRUdJTi[A-Za-z0-9+/]{{20,}}=*)
      | (?i:authorization)["'\\]{{0,8}}[ \t]{{0,4}}[:=][ \t]{{0,4}}["'\\]{{0,8}}
          (?P<scheme>(?i:basic|bearer|token|digest|api-?key))[ \t]{{1,4}}
          (?P<authorization>[^\s"'\\,;<>]{{6,}})
      | (?i:bearer)[ \t]{{1,4}}(?!(?i:authenti|authori[sz]|credential)[a-z]{{0,12}}(?![\w~+/=\-]))
          (?P<bearer>[A-Za-z0-9._~+/\-]{{12,}}=*)
      | (?i:basic)[ \t]{{1,4}}(?=[a-z]{{0,99}}[A-Z0-9+/=])  # lower-case letters alone are a word
          (?P<basic>[A-Za-z0-9+/]{{4,}}+={{0,2}}+(?![\w.\-<]))
      | (?i:(?:set-)?cookie)["'\\]{{0,8}}[ \t]{{0,4}}:[ \t]{{0,4}}["'\\]{{0,8}}
          (?P<cookie>[\w.\-]{{1,64}}=[^\s"'\\<>;]{{6,}}(?:;[ ]?[^\s"'\\<>;]+)*)
      )
    | (?:[?&;]|\\u0026|%26)(?i:sig|x-(?:amz|goog)-signature)=
        (?P<signature>[A-Za-z0-9%+/_\-]{{20,}}=*)
    | (?:hooks\.slack\.com\\?/(?:services|workflows|triggers)|/api/webhooks|webhook\.office\.com
        |outlook\.office\.com\\?/webhook)\\?/(?P<webhook>[A-Za-z0-9_\-@/.]{{20,}})
    """,
    re.VERBOSE,
)


def redact_secrets(text: str) -> str:
    """Replaces each secret by its kind, such as ``<API_KEY>`` (kinds and patterns: ours)."""
    for _ in range(ROUNDS):
        before = text
        for _, find in SECRET_PASSES:
            edits = find(text)
            text = apply_edits(text, edits) if edits else text
        if text == before:
            return text
    return SECRET


def _private_key_edits(text: str) -> list[Edit]:
    return [
        Edit(match.start(), match.end(), "<PRIVATE_KEY>", "PRIVATE_KEY")
        for match in _PRIVATE_KEY.finditer(text)
    ]


def _shape_edits(text: str, offset: int = 0) -> list[Edit]:
    edits: list[Edit] = []
    for match in _SHAPES.finditer(text):
        group = match.lastgroup or "secret"
        secret, start = match[group], offset + match.start(group)
        kind = match["scheme"] if group == "authorization" else group
        kind = kind.upper().replace("-", "_")
        if group == "basic" and not _is_user_and_password(secret):
            edits += _shape_edits(secret, start)  # 'basic' was a word; what follows may be a key
        else:
            edits.append(Edit(start, start + len(secret), f"<{kind}>", kind))
    return edits


def _is_user_and_password(text: str) -> bool:
    """Whether it is what HTTP's Basic scheme sends; most words after 'basic' are not."""
    bare = text.rstrip("=")
    try:
        return b":" in base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return False


SECRET_PASSES: Sequence[tuple[str, Pass]] = (
    ("shapes", _private_key_edits),  # it alone has spaces: others would see its parts
    ("shapes", _shape_edits),
    ("names", named_edits),
)
"""What finds secrets, in this order, with the hint that each needs (see `rwml.redaction.hints`)."""
