-- Where events go on to: how far each destination is, what waits, what was given up, and why.
-- Runs in one transaction with search_path = collector. Never edited after release.

-- One row for each destination (replay 0), and one for each replay to it.
create table couriers (
    destination   text        not null,
    replay        bigint      not null default 0, -- 0 is live delivery
    type          text        not null,
    state         text        not null default 'running'
                  check (state in ('running', 'paused', 'done', 'cancelled')),
    first_seq     bigint      not null, -- the first event that is its business
    last_seq      bigint,               -- of a replay: the last one
    position      bigint      not null, -- every event up to here is settled
    settled_ahead bigint      not null default 0, -- events beyond it that are settled too
    epoch         bigint      not null default 0, -- of the lease of whoever moves the position
    revision      bigint      not null default 0, -- grows with each commit
    digest        text        not null default '', -- of the settings it ran with last
    filter        jsonb,                -- of a replay: which events
    total         bigint,               -- of a replay: events that it will look at
    reason        text,                 -- why it is paused or stalled: a fixed word
    detail        text,                 -- the same in a sentence
    since         timestamptz,          -- when that began
    last_error    text,
    last_error_at timestamptz,
    delivered_at  timestamptz,          -- when the last event was taken
    oldest_at     timestamptz,          -- received_at of the oldest event that waits
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    primary key (destination, replay)
);
create sequence replay_ids;

-- What lies ahead of a position: events that wait, one row each, and runs that are done.
create table deliveries (
    destination     text             not null,
    replay          bigint           not null default 0,
    seq             bigint           not null,
    last_seq        bigint           not null, -- of a run that is done; else the same
    state           text             not null check (state in ('waiting', 'sending', 'done')),
    message_id      text,
    attempts        integer          not null default 0,
    failing_seconds double precision not null default 0, -- while others passed
    not_before      timestamptz,
    reason          text,
    detail          text,
    primary key (destination, replay, seq)
);

-- The sum: stored since first_seq = delivered + skipped + refused + pending.
create table delivery_counts (
    destination text   not null,
    replay      bigint not null default 0,
    outcome     text   not null check (outcome in ('delivered', 'skipped', 'refused')),
    reason      text   not null default '',
    events      bigint not null,
    primary key (destination, replay, outcome, reason)
);

-- What became of which event and when, many events a row: where `trace` looks.
create table delivery_log (
    at          timestamptz    not null default now(),
    destination text           not null,
    replay      bigint         not null default 0,
    outcome     text           not null,
    reason      text           not null default '',
    attempts    integer        not null,
    span        int8range      not null,
    seqs        int8multirange not null
);
create index delivery_log_span on delivery_log using gist (span);
create index delivery_log_at on delivery_log (at);

create table dead_letters (
    id          bigint generated always as identity primary key,
    destination text        not null,
    seq         bigint      not null,
    message_id  text,
    type        text,
    event       text,
    source      text,
    received_at timestamptz,
    failed_at   timestamptz not null default now(),
    reason      text        not null,
    detail      text        not null,
    attempts    integer     not null,
    retry       bigint, -- the replay that tries it again
    unique (destination, seq)
);
create index dead_letters_failed_at on dead_letters (failed_at);

-- One event of a kind for each business key, such as one Order Completed for each order_id.
create table claims (
    destination text        not null,
    event       text        not null,
    key         text        not null,
    message_id  text        not null,
    claimed_at  timestamptz not null default now(),
    primary key (destination, event, key)
);
create index claims_claimed_at on claims (claimed_at);
