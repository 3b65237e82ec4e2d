"""Audit a classifier: declare the threat model, attack it in every way at hand, write a card.

`advlib.audit` is the function. The floors of this package, from the ground up:

1. `sources` (pictures piece by piece), `plan` (which attacks), `sanity` (is the model what the
   numbers assume), `sharding` (several processes)
2. `engine` (one piece of the data), `store` (finished pieces on disk)
3. `report` (the card), `conduct` (from beginning to end), `cli` (``python -m advlib audit``)

The JSON card, schema ``advlib.audit/1``; fields are added, never renamed, within a schema:

``name``, ``eps`` (units of pixels), ``norm``, ``level``, ``complete``; ``clean`` and ``robust``,
each with ``count``, ``total``, ``value``, ``low``, ``high``; ``rows``, one for each attack:
``name``, ``knows``, ``settings``, ``attacked``, ``fooled``, ``accuracy`` (a share as above, worst
case so far), ``seconds``, ``forward``, ``backward``; ``findings``: ``name``, ``severity``,
``message``; ``settings`` (``seed``, ``batch_size``, ``piece_size``), ``model``, ``data``,
``versions``, ``cost`` (``seconds``, ``peak_memory_mib``, ``processes``), ``limits``.
"""

from advlib.auditing.conduct import AuditInterrupted, audit
from advlib.auditing.plan import LEVELS, Attack, Budget
from advlib.auditing.report import Audit, Row
from advlib.auditing.sanity import Finding
from advlib.auditing.sharding import ProcessLostError
from advlib.auditing.sources import Stream

__all__ = [
    "LEVELS",
    "Attack",
    "Audit",
    "AuditInterrupted",
    "Budget",
    "Finding",
    "ProcessLostError",
    "Row",
    "Stream",
    "audit",
]
