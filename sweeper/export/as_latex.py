"""For papers: the tables of the report as LaTeX, with the rules of booktabs, and a document that shows them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sweeper.export.destination import Destination
from sweeper.report.render.summary import report_tables
from sweeper.report.render.table import Table, lifted
from sweeper.report.searched import report_with_search
from sweeper.tables.run import Run

__all__ = ["DOCUMENT", "TABLES", "escaped", "export", "latex_lines"]

TABLES, DOCUMENT = "report.tex", "document.tex"
"""The tables, for ``\\input``, and a document that shows them, to be compiled as it is."""

_ROWS = 40
"""Rows of a table that fits on a page; longer ones go on in another."""

_DOCUMENT = r"""% Compile with pdflatex; the tables alone are in report.tex, which needs the package booktabs.
\documentclass{article}
\usepackage[a4paper, landscape, margin=1cm]{geometry}
\usepackage{booktabs}
\begin{document}
\input{report}
\end{document}
"""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    '"': r"\char34{}",
    "-": "{-}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "`": r"\char18{}",
    "'": "{'}",
    **{character: f"\\{character}" for character in "&%$#_"},
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "{'}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "−": r"\ensuremath{-}",
    "∇": r"\ensuremath{\nabla}",
    "‖": r"\ensuremath{\Vert}",
    "≤": r"\ensuremath{\leq}",
    "≥": r"\ensuremath{\geq}",
    "≈": r"\ensuremath{\approx}",
    "→": r"\ensuremath{\to}",
    "∞": r"\ensuremath{\infty}",
    "√": r"\ensuremath{\surd}",
    "²": r"\ensuremath{^2}",
    "₀": r"\ensuremath{_0}",
    "₁": r"\ensuremath{_1}",
    "α": r"\ensuremath{\alpha}",
    "β": r"\ensuremath{\beta}",
    "γ": r"\ensuremath{\gamma}",
    "δ": r"\ensuremath{\delta}",
    "ε": r"\ensuremath{\epsilon}",
    "η": r"\ensuremath{\eta}",
    "λ": r"\ensuremath{\lambda}",
    "μ": r"\ensuremath{\mu}",
    "ρ": r"\ensuremath{\rho}",
    "σ": r"\ensuremath{\sigma}",
    "τ": r"\ensuremath{\tau}",
    "ß": r"\ss{}",
}

_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}
"""Combining accent to the command that sets it."""


def export(run: Run, to: Destination) -> int:
    """Write the report's tables, and a document that shows them.

    Args:
        run: The run.
        to: Where they go.

    Returns:
        The number of trials that they sum up.
    """
    report, searched = report_with_search(run)
    lines = ["% \\usepackage{booktabs} in the preamble."]
    for table in report_tables(report, searched):
        lines += ["", *latex_lines(table)]
    to.new_file(TABLES).write_text("\n".join(lines) + "\n", encoding="ascii")
    to.new_file(DOCUMENT).write_text(_DOCUMENT, encoding="ascii")
    return sum(report.statuses.values())


def latex_lines(table: Table) -> list[str]:
    """A table in LaTeX, in several where it has many rows.

    Args:
        table: The table.

    Returns:
        Lines of ASCII; what the table says of all rows is in its caption.
    """
    columns, line = lifted(table)
    caption = ". ".join(escaped(text) for text in (table.title, line) if text)
    heads = [column.head or "best" for column in columns]
    rows = [[column.cells[at] for column in columns] for at in range(len(table.labels))]
    found = []
    for start in range(0, max(1, len(rows)), _ROWS):
        more = " (continued)" if start else ""
        found += [
            # LaTeX keeps only so many tables waiting for a page.
            *([r"\clearpage"] if start else []),
            r"\begin{table}[htbp]",
            r"\centering\small",
            rf"\caption{{{caption}{more}}}",
            rf"\begin{{tabular}}{{{'r' * len(heads)}}}",
            r"\toprule",
            _row(heads),
            r"\midrule",
            *map(_row, rows[start : start + _ROWS]),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return found


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    r"""Text as LaTeX shows it, whatever it holds.

    Args:
        text: Any text.

    Returns:
        ASCII without commands of the text's own. A character that plain LaTeX has no sign for is given by its number.

    Example:
        >>> print(escaped("50% of $x_1$ & \\input"), escaped("\u2207f \u00fc \u6f22"))
        50\% of \$x\_1\$ \& \textbackslash{}input \ensuremath{\nabla}f \"{u} {[}U+6F22{]}
    """
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character.isspace():
        return " "
    if character.isascii() and character.isprintable():
        return character
    base, *accents = list(unicodedata.normalize("NFD", character))
    if len(accents) == 1 and accents[0] in _ACCENTS and base.isascii() and base.isalpha():
        dotless = {"i": r"\i ", "j": r"\j "}.get(base, base)
        return f"\\{_ACCENTS[accents[0]]}{{{dotless}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
