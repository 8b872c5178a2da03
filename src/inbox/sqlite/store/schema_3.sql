-- The finished attempts of an event, oldest first, as JSON:
-- [{"attempt": 1, "started_at": 1794124800000, "ms": 1.5, "routes": [{"route": "a"}, {"route": "b", "failed": "why"}]}]
-- At most the newest 25. The time is by the system clock.
ALTER TABLE events ADD COLUMN history TEXT;

-- The only route that runs, if a replay named one.
ALTER TABLE events ADD COLUMN only_route TEXT;

ALTER TABLE dead_letters ADD COLUMN history TEXT;

-- Events that every route has handled, or that no route matched, if the inbox keeps them.
CREATE TABLE handled (
    -- The id of the event.
    id INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    -- When the event ended, by the inbox's clock. Pruning uses this time.
    kept_since INTEGER NOT NULL,
    -- 1 if no route matched the event.
    unhandled INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    -- How each route ended, as JSON like events.routes.
    routes TEXT NOT NULL,
    -- Like events.history.
    history TEXT,
    order_key BLOB,
    traceparent TEXT,
    body TEXT NOT NULL
) STRICT;

CREATE INDEX handled_by_time ON handled (kept_since);

ALTER TABLE totals ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;

ALTER TABLE totals ADD COLUMN handled_bytes INTEGER NOT NULL DEFAULT 0;
