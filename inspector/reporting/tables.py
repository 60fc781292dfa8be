"""The tables of a report: named columns of plain Python values, missing ones None.

Enough for a few thousand rows without pandas, whose import takes longer than most commands: only `to_frame`
loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from inspector.reporting.registry import is_missing

if TYPE_CHECKING:
    import pandas as pd


class Table:
    """Columns of equal length. Every method gives a new table; cells are shared, and nobody changes them."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, Iterable[Any]]) -> None:
        self._columns = {name: list(values) for name, values in columns.items()}
        if len({len(values) for values in self._columns.values()}) > 1:
            lengths = {name: len(values) for name, values in self._columns.items()}
            raise ValueError(f"the columns of a table differ in length: {lengths}")

    @staticmethod
    def of(rows: Iterable[Mapping[str, Any] | Sequence[Any]], columns: Iterable[str] | None = None) -> Table:
        """A table of rows: mappings (a name that one lacks is missing there), or sequences in the order of
        `columns`. Without `columns` those of the mappings, in the order in which they come."""
        rows = list(rows)
        if columns is None:
            columns = dict.fromkeys(name for row in rows for name in row)
        names = list(columns)
        if rows and not isinstance(rows[0], Mapping):
            return Table(dict(zip(names, zip(*rows))))
        return Table({name: [row.get(name) for row in rows] for name in names})  # type: ignore[union-attr]

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, column: object) -> bool:
        return column in self._columns

    def __getitem__(self, column: str) -> list[Any]:
        """The values of a column. Raises KeyError where there is none of that name."""
        return self._columns[column]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and list(self._columns.items()) == list(other._columns.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Table of {len(self)} rows: {', '.join(self._columns)}>"

    def items(self) -> Iterable[tuple[str, list[Any]]]:
        """Each column's name and values."""
        return self._columns.items()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Each row as a tuple, in the order of the columns."""
        return zip(*self._columns.values())

    def records(self) -> list[dict[str, Any]]:
        """Each row as a mapping."""
        return [dict(zip(self._columns, row)) for row in self.rows()]

    def assign(self, **columns: Iterable[Any]) -> Table:
        """With these columns, in the place of those of the same name, else last."""
        return Table({**self._columns, **columns})

    def select(self, columns: Iterable[str]) -> Table:
        """These columns alone, in this order."""
        return Table({name: self._columns[name] for name in columns})

    def drop(self, *columns: str) -> Table:
        """Without these columns; one that is not there is no error."""
        return Table({name: values for name, values in self._columns.items() if name not in columns})

    def rename(self, names: Mapping[str, str]) -> Table:
        """With other names for some columns."""
        return Table({names.get(name, name): values for name, values in self._columns.items()})

    def where(self, keep: Iterable[Any]) -> Table:
        """The rows for which `keep`, a value a row, is true."""
        mask = [bool(value) for value in keep]
        return Table({name: compress(values, mask) for name, values in self._columns.items()})

    def head(self, rows: int | None) -> Table:
        """The first rows; None for all."""
        return Table({name: values[:rows] for name, values in self._columns.items()})

    def sort(self, key: Callable[[dict[str, Any]], Any]) -> Table:
        """In the order of a key of each row; rows of one key stay in their order."""
        records = self.records()
        order = sorted(range(len(self)), key=lambda index: key(records[index]))
        return self._at(order)

    def _at(self, places: Sequence[int]) -> Table:
        return Table({name: [values[place] for place in places] for name, values in self._columns.items()})

    def groups(self, column: str) -> dict[Any, Table]:
        """The rows of each value of a column, as the values come; a missing value has no group."""
        places: dict[Any, list[int]] = {}
        for place, value in enumerate(self._columns[column]):
            if not is_missing(value):
                places.setdefault(value, []).append(place)
        return {value: self._at(rows) for value, rows in places.items()}

    def to_frame(self) -> pd.DataFrame:
        """As a pandas DataFrame. A column of whole numbers of which some are missing has the dtype Int64."""
        import pandas as pd

        data = {name: pd.Series(values, dtype=_dtype(values)) for name, values in self._columns.items()}
        return pd.DataFrame(data, columns=self.columns)


def _dtype(values: list[Any]) -> Any:
    """The dtype of a column for pandas; None lets pandas choose."""
    kinds = {type(value) for value in values}
    if kinds == {int, type(None)}:
        return "Int64"
    return object if not kinds or kinds == {type(None)} else None


def as_table(table: Any) -> Table:
    """The same as a Table; of a DataFrame, too, which plugins and scripts may put into a report."""
    if isinstance(table, Table):
        return table
    columns = {str(name): table.iloc[:, place].tolist() for place, name in enumerate(table.columns)}
    return Table({name: [None if is_missing(v) else v for v in values] for name, values in columns.items()})
