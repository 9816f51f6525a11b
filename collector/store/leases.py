"""
Leases: what only one of several collectors may do at a time.

A lease is a row with an owner, an expiry on Postgres' clock and an epoch that grows with every
change of owner. Session locks would break behind transaction poolers, and a stale one gives two
leaders. Whoever moves a cursor under a lease checks the epoch in the same transaction.

Units    seconds.
"""

from collections.abc import Sequence

from collector.store.postgres import Connection


async def acquire(connection: Connection, name: str, owner: str, seconds: float) -> int | None:
    """Take or renew the lease *name* for *seconds*, and return its epoch; None if it is taken."""
    return (await acquire_all(connection, [name], owner, seconds)).get(name)


async def acquire_all(
    connection: Connection, names: Sequence[str], owner: str, seconds: float
) -> dict[str, int]:
    """Take or renew those of *names* that can be had, and return their epochs."""
    rows = await connection.fetch(
        "insert into collector.leases as l (name, owner, epoch, expires_at) "
        "select name, $2, 1, now() + make_interval(secs => $3) "
        "from unnest($1::text[]) name order by name "
        "on conflict (name) do update set "
        "owner = excluded.owner, expires_at = excluded.expires_at, "
        "epoch = l.epoch + (l.owner <> excluded.owner)::int "
        "where l.owner = excluded.owner or l.expires_at < now() "
        "returning name, epoch",
        names,
        owner,
        seconds,
    )
    return {row["name"]: row["epoch"] for row in rows}


async def resign(connection: Connection, names: Sequence[str], owner: str) -> None:
    """Give the leases up, so that another collector need not wait for their expiry."""
    await connection.execute(
        "update collector.leases set expires_at = now() where name = any($1) and owner = $2",
        names,
        owner,
    )


async def inherit(connection: Connection, names: Sequence[str], owner: str) -> None:
    """
    End what an earlier life of *owner* holds, which was killed and resigned nothing.

    Owners are `host:pid:journal:life`. Only one process can have a journal, so whoever had it
    before does no more, and nobody needs to wait for the expiry.
    """
    await connection.execute(
        "update collector.leases set expires_at = now() where name = any($1) and owner <> $2 "
        "and split_part(owner, ':', 3) = split_part($2, ':', 3)",
        names,
        owner,
    )
