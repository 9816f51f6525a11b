"""
Warehouse: views over the events, named and typed as analysts know them from Segment's warehouse.

    columns.py     one column, read from JSON of any kind
    functions.py   the conversions, which never fail
    events.py      what each event of the specs says
    views.py       all views as SQL
    publish.py     puts them into Postgres, after the migrations

A view never raises on what a row holds, and never loses or retypes a column. They live in a schema
of their own, `warehouse`, so that an analyst sees the views and nothing else; the tables of the
collector, `users` among them, are in `collector`.
"""

from collector.store.warehouse.publish import PUBLISH_SECONDS, Publisher
from collector.store.warehouse.views import VIEWS

__all__ = ["PUBLISH_SECONDS", "VIEWS", "Publisher"]
