"""Wide tables: each cell also says what its column is, for windows that show a row as a list.

The style takes the boxes of such a table apart there, and a browser then forgets that it is one. So
each part names its role.
"""

import re
from html import escape, unescape
from itertools import count

WIDE = 5
"""Columns that do not fit a telephone beside each other."""

_TABLE = re.compile(r'<table class="table">.*?</table>', re.DOTALL)
_HEAD = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
_ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<td\b([^>]*)>(.*?)</td>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_ROLES = {"thead": "rowgroup", "tbody": "rowgroup", "tr": "row", "th": "columnheader"}


def label(html: str) -> str:
    """Return the page with its wide tables ready to be shown as lists."""
    return _TABLE.sub(lambda table: _labelled(table[0]), html)


def _labelled(table: str) -> str:
    names = [escape(unescape(_TAG.sub("", name)).strip()) for name in _HEAD.findall(table)]
    if len(names) < WIDE:
        return table

    def row(match: re.Match[str]) -> str:
        column = count()

        def cell(match: re.Match[str]) -> str:
            name, (attributes, content) = names[next(column)], match.groups()
            # An empty cell needs no line of its own.
            said = f' data-label="{name}"' if _TAG.sub("", content).strip() else ""
            return f'<td{attributes} role="cell"{said}>{content}</td>'

        return _CELL.sub(cell, match[0])

    table = _ROW.sub(row, table).replace('"table"', '"table wide" role="table"', 1)
    return re.sub(
        r"<(thead|tbody|tr|th)\b", lambda match: f'{match[0]} role="{_ROLES[match[1]]}"', table
    )
