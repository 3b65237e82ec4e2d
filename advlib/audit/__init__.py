"""Audit a classifier: declare the threat model, attack it in every way there is here, write a card.

`advlib.audit` is the function. The modules behind it, from the ground up:

1. `robustness`, `attack_checks`, `gradient_masking`, `transfer`: measurements of their own
2. `sources` (images piece by piece), `photos` (a folder of them), `plan` (which attacks),
   `sanity` (is the model what the numbers assume), `sharding` (several processes)
3. `engine` (one piece of the data), `store` (finished pieces on disk)
4. `card` (the page), `report` (the result and its card), `run` (from beginning to end),
   `command_line` (``python -m advlib audit``)

The JSON card, schema ``advlib.audit/1``; fields are added, never renamed, within a schema:

``name``, ``eps`` (units of pixels), ``norm``, ``level``, ``complete``; ``clean`` and ``robust``,
each with ``count``, ``total``, ``value``, ``low``, ``high``; ``rows``, one for each attack:
``name``, ``knows``, ``settings``, ``attacked``, ``fooled``, ``accuracy`` (a share as above, worst
case so far), ``seconds``, ``forward``, ``backward``; ``by_class``, one for each class: ``name``,
``clean``, ``robust``; ``findings``: ``name``, ``severity``, ``message``; ``settings`` (``seed``,
``batch_size``, ``piece_size``), ``model``, ``data``, ``versions``, ``cost`` (``seconds``,
``peak_memory_mib``, ``processes``), ``limits``.
"""

from advlib.audit.attack_checks import Check, Inspection, inspect_attack
from advlib.audit.card import Near
from advlib.audit.gradient_masking import Symptom, Symptoms, masking_symptoms
from advlib.audit.photos import photo_folder
from advlib.audit.plan import LEVELS, Attack, Budget
from advlib.audit.report import Audit, ClassShare, Row
from advlib.audit.robustness import Robustness, robust_accuracy
from advlib.audit.run import AuditInterrupted, audit
from advlib.audit.sanity import Finding
from advlib.audit.sharding import ProcessLostError
from advlib.audit.sources import Stream
from advlib.audit.transfer import alignment, transfer_matrix, transfer_rate

__all__ = [
    "LEVELS",
    "Attack",
    "Audit",
    "AuditInterrupted",
    "Budget",
    "Check",
    "ClassShare",
    "Finding",
    "Inspection",
    "Near",
    "ProcessLostError",
    "Robustness",
    "Row",
    "Stream",
    "Symptom",
    "Symptoms",
    "alignment",
    "audit",
    "inspect_attack",
    "masking_symptoms",
    "photo_folder",
    "robust_accuracy",
    "transfer_matrix",
    "transfer_rate",
]
