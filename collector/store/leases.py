"""
Leases: what only one of several collectors may do at a time.

A lease is a row with an owner, an expiry on Postgres' clock and an epoch that grows with every
change of owner. Session locks would break behind transaction poolers, and a stale one gives two
leaders. Whoever moves a cursor under a lease checks the epoch in the same transaction.

Units    seconds.
"""

from collector.store.postgres import Connection


async def acquire(connection: Connection, name: str, owner: str, seconds: float) -> int | None:
    """Take or renew the lease *name* for *seconds*, and return its epoch; None if it is taken."""
    epoch: int | None = await connection.fetchval(
        "insert into collector.leases as l (name, owner, epoch, expires_at) "
        "values ($1, $2, 1, now() + make_interval(secs => $3)) "
        "on conflict (name) do update set "
        "owner = excluded.owner, expires_at = excluded.expires_at, "
        "epoch = l.epoch + (l.owner <> excluded.owner)::int "
        "where l.owner = excluded.owner or l.expires_at < now() "
        "returning epoch",
        name,
        owner,
        seconds,
    )
    return epoch


async def resign(connection: Connection, name: str, owner: str) -> None:
    """Give the lease up, so that another collector need not wait for its expiry."""
    await connection.execute(
        "update collector.leases set expires_at = now() where name = $1 and owner = $2",
        name,
        owner,
    )
