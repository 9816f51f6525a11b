"""
Parameters: what the embedded Postgres is told: a small server that shares two cores with us.

They stand on its command line, where neither a file nor ALTER SYSTEM overrules them. Whatever is
not named here is the operator's, in `data/postgresql.conf`; on a reload Postgres says of those
that are named in both that they cannot change now, and takes the others.

Units    bytes and seconds; Postgres is told kB and s.
Source   Postgres 18, "Server Configuration"
"""

from typing import Annotated

from msgspec import Meta

from collector.settings import Bytes, Seconds, Section
from collector.store.cluster import PORT


class EmbeddedSettings(Section, frozen=True, kw_only=True):
    """[store.embedded]: a small server beside the collector, on two cores."""

    user: str = ""  # whom to run as when started by root; empty takes collector, postgres or nobody
    shared_buffers_bytes: Annotated[int, Meta(ge=1 << 20)] = 256 << 20
    wal_bytes_max: Annotated[int, Meta(ge=64 << 20)] = 2 << 30
    checkpoint_seconds: Annotated[int, Meta(ge=30, le=86_400)] = 900
    connections_max: Annotated[int, Meta(ge=10, le=1000)] = 40
    work_memory_bytes: Annotated[int, Meta(ge=64 << 10)] = 16 << 20
    maintenance_memory_bytes: Annotated[int, Meta(ge=1 << 20)] = 128 << 20
    log_bytes_max: Bytes = 8 << 20  # of postgres.log; one older file of that size is kept
    stop_seconds: Seconds = 20.0


def parameters(settings: EmbeddedSettings) -> dict[str, str]:
    """Names and values, each with the reason why it is not left at its default."""
    return {
        # What a 200 promises rests on these three: nobody may have switched them off.
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        # Only the private socket.
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_permissions": "0700",
        "max_connections": str(settings.connections_max),
        # Memory: the kernel's cache does the rest. Huge pages may be promised by a container and
        # then refused with SIGBUS.
        "shared_buffers": kb(settings.shared_buffers_bytes),
        "work_mem": kb(settings.work_memory_bytes),
        "maintenance_work_mem": kb(settings.maintenance_memory_bytes),
        "huge_pages": "off",
        # Shared memory that grows at run time: not in /dev/shm, which has 64 MB in a container and
        # which logind empties when the user logs out; not in files, which would be written to disk.
        "dynamic_shared_memory_type": "sysv",
        # Both cores are spoken for: ingest must not wait for a report. Nor does jit pay for our
        # queries, which touch many partitions for a few rows each.
        "max_parallel_workers_per_gather": "0",
        "max_parallel_maintenance_workers": "0",
        "jit": "off",
        # A query over all partitions locks each of them and all of their indexes.
        "max_locks_per_transaction": "256",
        # WAL: nobody replicates from here and backups are dumps, so an index that is built over a
        # closed day need not pass through it. Few checkpoints, since each makes pages be logged
        # whole again.
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_logical_replication_workers": "0",
        "max_wal_size": kb(settings.wal_bytes_max),
        # The wheel has no lz4, and on random ids pglz saved nothing of 495 MB for 5 to 15 % more
        # time.
        "wal_compression": "off",
        "checkpoint_timeout": f"{settings.checkpoint_seconds}s",
        "autovacuum": "on",
        "autovacuum_max_workers": "2",
        # The log is ours, see `trim`. No statement, row or value in it: events are personal data,
        # and an error that concerns one is kept beside that event.
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }


def kb(count_bytes: int) -> str:
    return f"{count_bytes // 1024}kB"
