"""
Views: all of them as SQL, made from what calls and events have for columns.

    collector.events ──▶ warehouse.events ──▶ tracks, pages, …, order_completed, …
                         ids, times, context_*     the columns of their own

The common columns are read from JSON in one place, `warehouse.events`. Postgres looks through
both views into the table: nothing is read that is not asked for, and a condition on `received_at`,
`seq`, `event_text` or an id is one on the table.

A released view only gains columns, at its end (publish.py puts them there, wherever they stand
here). Whoever changes anything here lets REVISION grow, and keeps what was released for the test:
tests/store/warehouse.py has the steps. Postgres lets no migration retype or drop a column of a
table that a view reads: one that has to, drops our views first, and they are made again.
"""

from typing import Final, NamedTuple

from collector.refine.names import names_of, snake
from collector.store.migrate import SCHEMA as TABLES
from collector.store.warehouse.columns import SCHEMA, Column, columns, digest_of
from collector.store.warehouse.events import EVENTS, PRODUCT

REVISION: Final = 1
BASE: Final = "events"


class View(NamedTuple):
    """A view: its name, a sentence about it, its columns in order, and where its rows are from."""

    name: str
    about: str
    columns: tuple[Column, ...]
    rest: str

    def query(self, names: tuple[str, ...] | None = None) -> str:
        """The text of the view; the columns in the order of *names*."""
        listed = {column.name: column for column in self.columns}
        shown = [listed[name] for name in names] if names else self.columns
        targets = ", ".join(f'{column.sql} as "{column.name}"' for column in shown)
        return f"select {targets} {self.rest}"

    @property
    def digest(self) -> str:
        """What tells whether the view that is there is this one."""
        return digest_of(self.query())


_CONTEXT = columns(
    "e.context",
    "active:boolean app.build app.name app.namespace app.version campaign.content campaign.id "
    "campaign.medium campaign.name campaign.source campaign.term channel consent:json "
    "device.ad_tracking_enabled:boolean device.advertising_id device.id device.manufacturer "
    "device.model device.name device.token device.type device.version group_id ip library.name "
    "library.version locale network.bluetooth:boolean network.carrier network.cellular:boolean "
    "network.wifi:boolean os.name os.version page.path page.referrer page.search page.title "
    "page.url referrer.id referrer.link referrer.name referrer.type referrer.url "
    "screen.density:number screen.height:number screen.width:number session_id timezone "
    "traits.email user_agent user_agent_data.mobile:boolean user_agent_data.model "
    "user_agent_data.platform click_ids.fbclid click_ids.gbraid click_ids.gclid "
    "click_ids.msclkid click_ids.ttclid click_ids.wbraid",
    prefix="context_",
)


def _same(text: str, alias: str = "e") -> tuple[Column, ...]:
    """Columns of what lies below, as they are: `name:type`, text if no type is named."""
    types = {"time": "timestamp with time zone", "json": "jsonb", "": "text"}
    found = []
    for word in text.split():
        name, _, kind = word.partition(":")
        found.append(Column(name, types.get(kind, kind), f'{alias}."{name}"'))
    return tuple(found)


_BASE = View(
    BASE,
    "Every event, of whatever type.",
    (
        Column("id", "text", "e.message_id"),
        *_same("anonymous_id user_id received_at:time sent_at:time original_timestamp:time"),
        *_same("timestamp:time type"),
        Column("event", "text", f"{SCHEMA}.as_event(e.event)"),
        Column("event_text", "text", "e.event"),
        *_same("name category group_id previous_id"),
        *_CONTEXT,
        *_same("source seq:bigint"),
        Column("uuid_ts", "timestamp with time zone", "e.received_at"),
        *_same("properties:json traits:json context:json"),
    ),
    f"from {TABLES}.events e",
)

_HEAD = _same(
    "id anonymous_id user_id received_at:time sent_at:time original_timestamp:time timestamp:time"
)
_TAIL = (
    *tuple(Column(c.name, c.type, f'e."{c.name}"') for c in _CONTEXT),
    *_same("source seq:bigint uuid_ts:time context:json"),
)
_FROM = f"from {SCHEMA}.{BASE} e where e.type = "

TRAITS: Final = (
    "address.city address.country address.postal_code address.state address.street age:number "
    "avatar birthday:date company.employee_count:number company.id company.industry company.name "
    "company.plan created_at:time description email first_name gender last_name name phone title "
    "username website currency lifetime_value:number locale order_count:number"
)
GROUP_TRAITS: Final = (
    "address.city address.country address.postal_code address.state address.street avatar "
    "created_at:time description email employees industry name phone plan website"
)


def _call(name: str, type_: str, about: str, *own: Column) -> View:
    return View(name, about, (*_HEAD, *own, *_TAIL), f"{_FROM}'{type_}'")


def _named(text: str) -> Column:
    """A name or category, which may stand beside the properties or in them."""
    return Column(text, "text", f"coalesce(e.\"{text}\", e.properties ->> '{text}')")


_PROPERTIES = _same("properties:json")
_CALLS = (
    _call("tracks", "track", "What happened.", *_same("event event_text"), *_PROPERTIES),
    _call(
        "pages",
        "page",
        "Pages that were looked at.",
        _named("name"),
        _named("category"),
        *columns("e.properties", "path referrer search title url keywords:json"),
        *_PROPERTIES,
    ),
    _call(
        "screens",
        "screen",
        "Screens of apps that were looked at.",
        _named("name"),
        _named("category"),
        *_PROPERTIES,
    ),
    _call(
        "identifies",
        "identify",
        "What was said of people, each time.",
        *columns("e.traits", TRAITS),
        *_same("traits:json"),
    ),
    _call(
        "groups",
        "group",
        "What was said of groups, such as companies, and who belongs to them.",
        *_same("group_id"),
        *columns("e.traits", GROUP_TRAITS),
        *_same("traits:json"),
    ),
    _call("aliases", "alias", "Ids that mean the same person.", *_same("previous_id")),
    View(
        "users",
        "The latest traits of each user: the table collector.users, with a column for each trait.",
        (
            Column("id", "text", "u.user_id"),
            *_same("received_at:time", "u"),
            *columns("u.traits", TRAITS),
            *_same("seq:bigint", "u"),
            Column("uuid_ts", "timestamp with time zone", "u.received_at"),
            *_same("traits:json", "u"),
        ),
        f"from {TABLES}.users u",
    ),
)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def _event(standard: str, text: str) -> View:
    return View(
        snake(standard),
        f"{standard}, under any of its names.",
        (
            *_HEAD,
            Column("event", "text", f"'{snake(standard)}'::text"),
            *_same("event_text"),
            *columns("e.properties", text),
            *_TAIL,
            *_PROPERTIES,
        ),
        f"{_FROM}'track' and e.event_text in ({_list(names_of(standard))})",
    )


_PRODUCTS = View(
    "event_products",
    "The products of events that list several, a row each.",
    (
        *_same("id anonymous_id user_id received_at:time timestamp:time event event_text"),
        *columns("e.properties", "order_id checkout_id cart_id list_id"),
        Column("line", "bigint", "p.line"),
        *columns("p.product", PRODUCT),
        *_same("source seq:bigint"),
        Column("product", "jsonb", "p.product"),
    ),
    f"from {SCHEMA}.{BASE} e cross join lateral jsonb_array_elements("
    f"coalesce({SCHEMA}.as_list(e.properties -> 'products'), '[]'::jsonb)) "
    "with ordinality as p (product, line) where e.type = 'track'",
)

VIEWS: Final = (
    _BASE,
    *_CALLS,
    *(_event(name, text) for events in EVENTS.values() for name, text in events.items()),
    _PRODUCTS,
)
