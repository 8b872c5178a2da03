-- Accepted events that haven't ended, in the order of acceptance.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    -- By the system clock, in milliseconds since the Unix epoch.
    received_at INTEGER NOT NULL,
    -- Events with the same key run one after another.
    order_key BLOB,
    -- The number of the next attempt, from 1.
    attempt INTEGER NOT NULL DEFAULT 1,
    -- When the next attempt is due, by the inbox's clock (see totals). NULL means now.
    due_at INTEGER,
    -- The routes that don't run again, as JSON: [{"route": "a"}, {"route": "b", "failed": "why"}].
    routes TEXT,
    -- 1 if some of a router's routes are waiting for the next attempt. Then a layer around the router can't end the event.
    routes_waiting INTEGER NOT NULL DEFAULT 0,
    -- 1 while the event is running, if an earlier process accepted it.
    running INTEGER NOT NULL DEFAULT 0,
    -- The number of processes that ended while the event was running.
    crashes INTEGER NOT NULL DEFAULT 0,
    -- The body as received. This is the last column, so SQLite can read the others without it.
    body TEXT NOT NULL
) STRICT;

CREATE INDEX events_running ON events (id) WHERE running = 1;

-- The message ids of accepted events. The inbox uses them to recognize copies.
CREATE TABLE message_ids (
    -- The id of the event.
    id INTEGER PRIMARY KEY,
    -- By the inbox's clock.
    accepted_at INTEGER NOT NULL,
    message_id TEXT NOT NULL
) STRICT;

-- Events with a route that failed permanently.
CREATE TABLE dead_letters (
    -- The id of the event.
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    dead_lettered_at INTEGER NOT NULL,
    -- When the event became a dead letter, by the inbox's clock. Pruning uses this time.
    kept_since INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL,
    -- How each route ended, as JSON like events.routes.
    routes TEXT NOT NULL,
    -- Why the event is a dead letter, if not because of a route.
    cause TEXT,
    order_key BLOB,
    -- 1 if the later events of its order_key wait until the dead letter is replayed or deleted.
    blocks_key INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
) STRICT;

CREATE INDEX dead_letters_blocking ON dead_letters (id) WHERE blocks_key = 1;

CREATE INDEX dead_letters_by_time ON dead_letters (kept_since);

-- A single row with counts that would take too long to compute.
CREATE TABLE totals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- The id of the next event.
    next_id INTEGER NOT NULL,
    events INTEGER NOT NULL,
    event_bytes INTEGER NOT NULL,
    dead_letters INTEGER NOT NULL,
    dead_letter_bytes INTEGER NOT NULL,
    -- The inbox's clock at the last transaction, in milliseconds. The clock starts at the system time, and counts
    -- elapsed time, regardless of changes to the system clock.
    clock INTEGER NOT NULL,
    -- How far the system clock is ahead of the inbox's clock.
    clock_skew INTEGER NOT NULL,
    -- The path of the file while an inbox has it open. NULL once the inbox is closed.
    open_path TEXT
) STRICT;

INSERT INTO totals VALUES (1, 1, 0, 0, 0, 0, 0, 0, NULL);

-- Readable events. SQLite can't parse JSON that is nested too deeply. The columns that come from such a body are NULL,
-- so the other rows stay readable.
CREATE VIEW pending AS
SELECT
    id,
    CASE WHEN json_valid(body) THEN
        coalesce(json_extract(body, '$.messageId'), json_extract(body, '$.id'))
    END AS message_id,
    CASE WHEN json_valid(body) THEN json_extract(body, '$.eventType') END AS event_type,
    datetime(received_at / 1000, 'unixepoch') AS received,
    attempt,
    datetime(due_at / 1000, 'unixepoch') AS due,
    routes
FROM events;
