"""Many tasks side by side: one row a model and method, one column a task, and the mean over the tasks all rows have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retroclip.evaluation import Result


@dataclass(frozen=True)
class Overview:
    """`rows` are (model, method), `columns` (task, data, metric); `cells` maps pairs of their positions to results."""

    rows: list[tuple[str, str]]
    columns: list[tuple[str, str, str]]
    cells: dict[tuple[int, int], Result]

    def mean(self, row: int) -> float | None:
        """The mean value over the columns that every row has; None where there is none."""
        values = [self.cells[row, column].value for column in self.shared]
        return float(np.mean([value for value in values if value is not None])) if values else None

    @property
    def shared(self) -> list[int]:
        """The columns in which every row has a value."""

        def has(row: int, column: int) -> bool:
            cell = self.cells.get((row, column))
            return cell is not None and cell.value is not None

        return [c for c in range(len(self.columns)) if all(has(r, c) for r in range(len(self.rows)))]


def overview(results: Sequence[Result]) -> Overview | None:
    """The overview of results on at least two data sets; None for fewer. Of two in one cell the later one stands."""
    from retroclip.report.tables import data_name

    rows = list(dict.fromkeys((r.model, r.method) for r in results))
    columns = list(dict.fromkeys((r.task, data_name(r), r.metric) for r in results if r.error is None))
    if len(columns) < 2:
        return None
    cells = {
        (rows.index((r.model, r.method)), columns.index((r.task, data_name(r), r.metric))): r
        for r in results
        if r.error is None
    }
    return Overview(rows, columns, cells)
