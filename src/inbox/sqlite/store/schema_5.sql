-- The keys for which a route with `once_per` has handled an event.
CREATE TABLE once_keys (
    route TEXT NOT NULL,
    -- The id of the event.
    event_id INTEGER NOT NULL,
    key BLOB NOT NULL,
    -- The window of the route, in milliseconds.
    window INTEGER NOT NULL,
    -- When the inbox accepted the event, and when the route handled it, by the system clock.
    accepted_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    -- When the inbox may forget the key, unless an earlier event is unfinished.
    expires_at INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    PRIMARY KEY (route, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX once_keys_by_expiry ON once_keys (expires_at);
