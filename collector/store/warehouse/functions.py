r"""
Functions: from any JSON to a typed value or null. None of them can fail, whatever they are given.

They are plain expressions, so that Postgres puts them into the query itself: 2 µs a value, of which
the pattern is most. A function that is declared strict it would call instead: 7 µs; as PL/pgSQL
3 µs, with an exception block 5 µs (Postgres 18, three members of 200,000 events). Null gives
null all the same. Only times, which are rare, need steps, and so are PL/pgSQL.

Numbers  as text: up to 15 digits and 18 after the point, with a sign; `12,50` and `1,299.00` mean
         different things in different countries, and are no number.
Times    ISO 8601 from year 1 to 9999, UTC if no zone is named; digits alone are seconds (from 1973
         on) or milliseconds since 1970.
"""

from typing import Final, NamedTuple

from collector.refine.names import SPECS, snake
from collector.store.warehouse.columns import SCHEMA, digest_of

SPACE: Final = r"[ \t\n\r]*"  # what Postgres' own conversions skip


class Function(NamedTuple):
    """A function of ours: its name with the types of its arguments, what it is for, its text."""

    name: str
    about: str
    sql: str

    @property
    def digest(self) -> str:
        """What tells whether the function that is there is this one."""
        return digest_of(self.sql)


def _plain(name: str, argument: str, gives: str, about: str, body: str) -> Function:
    return Function(
        f"{name}({argument.split()[1]})",
        about,
        f"create or replace function {SCHEMA}.{name}({argument}) returns {gives} "
        f"language sql immutable parallel safe return {body}",
    )


_OLDER: Final = {
    snake(older): snake(standard)
    for standard, others in SPECS.items()
    for older in others
    if snake(older) != snake(standard)
}
_SNAKE: Final = (
    r"lower(btrim(regexp_replace(regexp_replace(regexp_replace(name, "
    r"'([a-z0-9])([A-Z])', '\1_\2', 'g'), "
    r"'([A-Z])([A-Z][a-z])', '\1_\2', 'g'), "
    r"'[^[:alnum:]]+', '_', 'g'), '_'))"
)
_OLDER_JSON: Final = ", ".join(f'"{older}": "{new}"' for older, new in _OLDER.items())

_TIME: Final = rf"""
create or replace function {SCHEMA}.as_time(value jsonb) returns timestamp with time zone
language plpgsql immutable parallel safe strict set search_path = pg_catalog, pg_temp as $$
declare
    said text;
    part text[];
    number numeric;
    month integer;
    day integer;
    first date;
    moment timestamp with time zone;
begin
    if jsonb_typeof(value) not in ('string', 'number') then
        return null;
    end if;
    said := value #>> '{{}}';
    if length(said) > 64 then
        return null;
    end if;
    said := btrim(said, E' \t\n\r');
    if said ~ '^[0-9]{{9,14}}(\.[0-9]{{1,20}})?$' then
        number := said::numeric;
        if number >= 1e11 then
            number := number / 1000;
        end if;
        return case when number >= 1e8 and number < 1e11 then to_timestamp(number::float8) end;
    end if;
    part := regexp_match(said,
        '^([0-9]{{4}})-?(0[1-9]|1[0-2])-?(0[1-9]|[12][0-9]|3[01])'
        '(?:[T ]([01][0-9]|2[0-3]):?([0-5][0-9])(?::?([0-5][0-9]|60)(?:[.,]([0-9]{{1,18}}))?)?'
        ' ?(?:Z|UTC|([+-])(0[0-9]|1[0-5])(?::?([0-5][0-9]))?)?)?$', 'i');
    if part is null or part[1] = '0000' then
        return null;
    end if;
    month := part[2]::integer;
    day := part[3]::integer;
    first := make_date(part[1]::integer, month, 1);
    if extract(month from first + (day - 1)) <> month then
        return null;
    end if;
    moment := (
        (first + (day - 1))::timestamp
        + make_interval(
            hours => coalesce(part[4]::integer, 0),
            mins => coalesce(part[5]::integer, 0),
            secs => coalesce((part[6] || '.' || coalesce(left(part[7], 6), '0'))::float8, 0))
        - make_interval(
            hours => coalesce((part[8] || part[9])::integer, 0),
            mins => coalesce((part[8] || part[10])::integer, 0))
    ) at time zone 'UTC';
    -- Clients that know no year beyond these could not read the row.
    if moment >= '0001-01-01T00:00:00Z' and moment < '10000-01-01T00:00:00Z' then
        return moment;
    end if;
    return null;
end
$$
"""

FUNCTIONS: Final = (
    _plain(
        "as_number",
        "value jsonb",
        "numeric",
        "The number that a JSON value is or plainly says, else null.",
        "case jsonb_typeof(value) when 'number' then value::numeric when 'string' then "
        rf"case when (value #>> '{{}}') ~ '^{SPACE}[-+]?([0-9]{{1,15}}(\.[0-9]{{0,18}})?"
        rf"|\.[0-9]{{1,18}}){SPACE}$' then (value #>> '{{}}')::numeric end end",
    ),
    _plain(
        "as_boolean",
        "value jsonb",
        "boolean",
        "True or false if a JSON value is or plainly says so, else null.",
        "case jsonb_typeof(value) when 'boolean' then value::boolean "
        "when 'object' then null when 'array' then null else "
        "case lower(value #>> '{}') "
        "when 'true' then true when 'yes' then true when 'on' then true when '1' then true "
        "when 'false' then false when 'no' then false when 'off' then false when '0' then false "
        "end end",
    ),
    Function("as_time(jsonb)", "The moment that a JSON value names, else null.", _TIME.strip()),
    _plain(
        "as_date",
        "value jsonb",
        "date",
        "The day, in UTC, that a JSON value names, else null.",
        f"({SCHEMA}.as_time(value) at time zone 'UTC')::date",
    ),
    _plain(
        "as_list",
        "value jsonb",
        "jsonb",
        "A JSON value that is an array, else null.",
        "case when jsonb_typeof(value) = 'array' then value end",
    ),
    _plain(
        "as_json",
        "value jsonb",
        "jsonb",
        "A JSON value as it is, with null for its null.",
        "nullif(value, 'null'::jsonb)",
    ),
    _plain(
        "as_event",
        "name text",
        "text",
        "The name of an event as its view is called; an older one as its current one.",
        f"coalesce('{{{_OLDER_JSON}}}'::jsonb ->> {_SNAKE}, nullif({_SNAKE}, ''), name)",
    ),
)
