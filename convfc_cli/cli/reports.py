"""A report for people: a line for each check."""

from typing import TYPE_CHECKING

from convfc_cli.cli.terminal import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from convfc_cli.proof.report import Report

_MARKS = {True: "[green]ok[/]", False: "[bold red]WRONG[/]", None: "[yellow]no[/]"}


WIDE = 110
"""Columns of a terminal from which on a report has columns of its own for strength and cost."""


def print_report(report: "Report", screen: "Console", *, head: bool = True) -> None:
    """Print a report: the matrix (unless its line was printed already), each check, and what is
    trusted.
    """
    from rich.table import Table

    if head:
        rows, columns = report.shape
        screen.print(
            f"[bold]{escaped(report.file)}[/]  {escaped(report.layer)}  "
            f"{rows:,} x {columns:,}, {report.nonzeros:,} nonzeros, {report.form}"
        )
    wide = screen.width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=wide, header_style="dim")
    for column in ("", "check", "", *(("how strongly", "against", "cost") if wide else ())):
        table.add_column(column, no_wrap=True, justify="right" if column == "cost" else "left")
    table.add_column("what", overflow="fold")
    for finding in report.findings:
        cost = f"{finding.seconds:.2f} s" if (finding.seconds or 0) >= 0.005 else ""
        cells = [finding.strength, finding.against, cost, finding.detail]
        if not wide:
            against = f"against {finding.against}" if finding.against else ""
            strength = "" if finding.strength in finding.detail else finding.strength
            how = ", ".join(filter(None, (f"{strength} {against}".strip(), cost)))
            cells = [f"{finding.detail} ({how})" if how else finding.detail]
        table.add_row("", finding.check, _MARKS[finding.holds], *map(escaped, cells))
    screen.print(table)
    for trusted in report.trusted:
        screen.print(f"  trusted: {escaped(trusted)}")
