"""All answers that a database of labels holds, the replaced and withdrawn ones too, read without the library."""

import sqlite3
from contextlib import closing


def all_answers(path):
    """Rows of the table, in the order they were given."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM answers ORDER BY number")]
