-- Events that were accepted and haven't ended, in the order in which they were accepted.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    -- Milliseconds since the Unix epoch, here and everywhere.
    received_at INTEGER NOT NULL,
    -- What the event is put in order by.
    order_key BLOB,
    -- The next attempt, from 1.
    attempt INTEGER NOT NULL DEFAULT 1,
    -- When it is due, unless at once.
    due_at INTEGER,
    -- The routes that need no further run, as JSON: [{"route": "a"}, {"route": "b", "failed": "why"}].
    routes TEXT,
    -- 1 if routes of it failed and are to be tried again: whatever is around the router can't end it.
    routed INTEGER NOT NULL DEFAULT 0,
    -- 1 while an event that an earlier process left unfinished runs.
    marked INTEGER NOT NULL DEFAULT 0,
    -- How many processes ended while it was marked.
    crashes INTEGER NOT NULL DEFAULT 0,
    -- The whole body as it came. It is the last column: what comes before is read without it.
    body TEXT NOT NULL
) STRICT;

CREATE INDEX events_marked ON events (id) WHERE marked = 1;

-- The messageIds that were accepted, to recognise copies by.
CREATE TABLE message_ids (
    -- That of the event.
    id INTEGER PRIMARY KEY,
    accepted_at INTEGER NOT NULL,
    message_id TEXT NOT NULL
) STRICT;

-- Events that were given up.
CREATE TABLE dead_letters (
    -- That of the event.
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    dead_lettered_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- How each route ended, as JSON like that of events.
    routes TEXT NOT NULL,
    -- Why it was given up, if none of its routes is the reason.
    cause TEXT,
    order_key BLOB,
    -- 1 if it holds back the events of its order_key.
    holds INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
) STRICT;

CREATE INDEX dead_letters_holding ON dead_letters (id) WHERE holds = 1;

CREATE INDEX dead_letters_by_death ON dead_letters (dead_lettered_at);

-- One row: what counting would take too long for.
CREATE TABLE totals (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- The id of the next event.
    next_id INTEGER NOT NULL,
    events INTEGER NOT NULL,
    event_bytes INTEGER NOT NULL,
    dead_letters INTEGER NOT NULL,
    dead_letter_bytes INTEGER NOT NULL
) STRICT;

INSERT INTO totals VALUES (1, 1, 0, 0, 0, 0);

-- To be read by a person. One body that SQLite can't read, because it is nested too deeply for it, doesn't spoil the rest.
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
