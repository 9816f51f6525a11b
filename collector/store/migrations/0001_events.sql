-- Events, who sent them, what was turned down, and the books over all of it.
-- Runs in one transaction with search_path = collector. Never edited after release.

-- The number of the newest event. Locked first in every batch: so `seq` is dense, and its order is
-- commit order for any number of collectors. `history` is a digest over all message ids so far.
create table sequence (
    one     boolean primary key default true check (one),
    last    bigint not null default 0,
    history bytea  not null default '\x00000000000000000000000000000000'
);
insert into sequence default values;

create table events (
    seq                bigint      not null,
    received_at        timestamptz not null,
    timestamp          timestamptz not null,
    original_timestamp timestamptz,
    sent_at            timestamptz,
    message_id         text        not null,
    type               text        not null,
    event              text,
    name               text,
    category           text,
    source             text        not null,
    user_id            text,
    anonymous_id       text,
    group_id           text,
    previous_id        text,
    context            jsonb,
    properties         jsonb,
    traits             jsonb,
    integrations       jsonb,
    extra              jsonb
) partition by range (received_at);
create index events_seq on events (seq);
-- The net: nothing fails to be stored because a day's partition is missing.
create table events_default partition of events default;

comment on table events is 'One row an event, each message_id once within the dedupe window.';
comment on column events.seq is 'Dense and in commit order over all collectors.';
comment on column events.timestamp is 'When it happened, corrected for the sender''s clock.';
comment on column events.extra is 'Top-level members without a column; "collector" holds our notes.';

-- The ids of stored events in the order of seq, 16 bytes each, one row a batch: what a resent
-- event is recognised by. Read as a stream; look-ups are made in each collector's replica of it.
create table seen (
    first_seq bigint      not null,
    events    integer     not null,
    stored_at timestamptz not null default now(),
    history   bytea       not null, -- the digest after these ids
    ids       bytea       not null
) partition by range (stored_at);
alter table seen alter column ids set storage external; -- random bytes; slices are read
create index seen_first_seq on seen (first_seq);
create table seen_default partition of seen default;

-- How far each journal is stored.
create table journals (
    id         uuid primary key,
    position   bigint      not null,
    epoch      bigint      not null default 0,    -- grows each time a process opens the journal
    baseline   jsonb       not null default '{}', -- events by source up to the first position
    host       text,
    opened_at  timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- The books: for each journal and source, accepted = sum of these + what waits in the journal.
create table accounting (
    journal uuid   not null,
    source  text   not null,
    outcome text   not null check (outcome in ('stored', 'duplicate', 'rejected', 'lost')),
    reason  text   not null default '',
    events  bigint not null,
    primary key (journal, source, outcome, reason)
);

-- The latest traits of each user, as Segment's warehouse has it.
create table users (
    user_id     text primary key,
    traits      jsonb       not null,
    received_at timestamptz not null, -- of the identify call that came last
    seq         bigint      not null
);

create table rejected_events (
    id            bigint generated always as identity primary key,
    rejected_at   timestamptz not null default now(),
    received_at   timestamptz not null,
    source        text,                    -- null where the write key was unknown
    accepted      boolean     not null,    -- whether its request was answered 200
    reason        text        not null,
    detail        text        not null,
    message_id    text,
    payload       text        not null,    -- what was sent, cut; bytes that are no text as \xNN
    payload_bytes integer     not null
);
create index rejected_events_rejected_at on rejected_events (rejected_at);

-- Who does what only one collector may do at a time. Times are those of Postgres.
create table leases (
    name       text primary key,
    owner      text        not null,
    epoch      bigint      not null,
    expires_at timestamptz not null
);
