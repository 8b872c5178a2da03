CREATE TABLE botisimo.schema_version (
    version int NOT NULL
);

-- The processes that run events. A process whose alive_until is over has lost its events.
CREATE TABLE botisimo.workers (
    -- A random number, which is never used again.
    id bigint PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    alive_until timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE SEQUENCE botisimo.event_ids;

-- Accepted events that haven't ended, in the order of acceptance.
CREATE TABLE botisimo.events (
    id bigint PRIMARY KEY,
    -- The worker that has leased the event. 0 if no worker has.
    owner bigint NOT NULL DEFAULT 0,
    -- When the next attempt is due, by the server's clock.
    due_at timestamptz NOT NULL DEFAULT now(),
    -- By the clock of the process that received the event.
    received_at timestamptz NOT NULL,
    -- The number of the next attempt, from 1.
    attempt int NOT NULL DEFAULT 1,
    -- The number of workers that died while they had leased the event.
    takeovers int NOT NULL DEFAULT 0,
    -- Whether an earlier event of the same key hasn't ended, or a dead letter blocks the key.
    blocked boolean NOT NULL DEFAULT false,
    -- The start of the SHA-256 of the ordering key. Events with the same key run one after another.
    order_key uuid,
    message_id text NOT NULL,
    event_type text NOT NULL,
    -- The routes that don't run again, as JSON: [{"route": "a"}, {"route": "b", "failed": "why"}].
    routes text,
    -- Whether some of a router's routes are waiting for the next attempt.
    routes_waiting boolean NOT NULL DEFAULT false,
    -- The routes that wait for a retry, if they have other delays or other attempts than the event, as JSON:
    -- [{"route": "a", "attempts": 2, "ms": 1500}]
    waiting text,
    -- The only route that runs, if a replay named one.
    only_route text,
    -- The finished attempts, oldest first, each as JSON. At most the newest 25.
    history text[],
    -- The W3C Trace Context of the request that brought the event.
    traceparent text,
    -- The body as received.
    body text NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);

-- Compression would take more of the server's time than all the rest.
ALTER TABLE botisimo.events ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX events_ready ON botisimo.events (due_at, id) WHERE owner = 0 AND NOT blocked;

CREATE INDEX events_owned ON botisimo.events (owner) WHERE owner <> 0;

CREATE INDEX events_keyed ON botisimo.events (order_key, id) WHERE order_key IS NOT NULL;

-- The routes of unfinished events and of dead letters whose handlers have called complete.
CREATE TABLE botisimo.finished_routes (
    event_id bigint NOT NULL,
    route text NOT NULL,
    PRIMARY KEY (event_id, route)
);

-- The message ids of accepted events. The inbox uses them to recognize copies.
CREATE TABLE botisimo.message_ids (
    -- The start of the SHA-256 of the message id.
    message_id uuid PRIMARY KEY,
    event_id bigint NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX message_ids_age ON botisimo.message_ids USING brin (accepted_at) WITH (pages_per_range = 32);

-- Events with a route that failed permanently.
CREATE TABLE botisimo.dead_letters (
    id bigint PRIMARY KEY,
    received_at timestamptz NOT NULL,
    dead_lettered_at timestamptz NOT NULL DEFAULT now(),
    attempts int NOT NULL,
    order_key uuid,
    -- Whether the later events of order_key wait until the dead letter is replayed or deleted.
    blocks_key boolean NOT NULL DEFAULT false,
    message_id text NOT NULL,
    event_type text NOT NULL,
    -- How each route ended, as JSON like events.routes.
    routes text NOT NULL,
    -- Why the event is a dead letter, if not because of a route.
    cause text,
    history text[],
    traceparent text,
    body text NOT NULL
);

CREATE INDEX dead_letters_blocking ON botisimo.dead_letters (order_key) WHERE blocks_key;

CREATE INDEX dead_letters_age ON botisimo.dead_letters (dead_lettered_at);

-- Events that every route has handled, or that no route matched, if the inbox keeps them.
CREATE TABLE botisimo.handled (
    id bigint PRIMARY KEY,
    received_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now(),
    -- Whether no route matched the event.
    unhandled boolean NOT NULL,
    attempts int NOT NULL,
    order_key uuid,
    message_id text NOT NULL,
    event_type text NOT NULL,
    routes text NOT NULL,
    history text[],
    traceparent text,
    body text NOT NULL
);

CREATE INDEX handled_age ON botisimo.handled (ended_at);

CREATE FUNCTION botisimo.hash(value bytea) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT encode(substring(sha256(value) FOR 16), 'hex')::uuid
$$;

-- Locks ordering keys until the transaction ends. Locks buckets of keys, at most 1,024 a transaction, in the order of their numbers, so
-- that no two transactions wait for each other.
CREATE FUNCTION botisimo.lock_keys(keys uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1651471721, bucket)
    FROM (SELECT DISTINCT hashtext(k::text) & 1023 AS bucket FROM unnest(keys) AS u (k) WHERE k IS NOT NULL ORDER BY 1) AS s;
END $$;

-- Unblocks the first event of each key, unless a dead letter blocks the key, and leases it to the worker. The caller has locked the keys.
CREATE FUNCTION botisimo.unblock(keys uuid[], worker bigint) RETURNS SETOF bigint
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    UPDATE botisimo.events AS e SET blocked = false, owner = worker
    WHERE e.id = ANY (ARRAY(
        SELECT (SELECT x.id FROM botisimo.events AS x WHERE x.order_key = k ORDER BY x.order_key, x.id LIMIT 1)
        FROM (SELECT DISTINCT k FROM unnest(keys) AS u (k) WHERE k IS NOT NULL) AS s
        WHERE NOT EXISTS (SELECT FROM botisimo.dead_letters AS d WHERE d.order_key = k AND d.blocks_key)
    )) AND e.blocked
    RETURNING e.id;
END $$;

-- Returns the worker, or 0 if the worker has lost its events.
CREATE FUNCTION botisimo.living(worker bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT w.id FROM botisimo.workers AS w WHERE w.id = worker), 0)
$$;

-- Ends the events that every route has handled, and stores new events, in one transaction. Each statement has its own snapshot, so the
-- statements after the locks see all that was committed before.
--
-- Skips the finished events that a handler's open transaction has locked. Returns the finished events (kind 0), the next events of their
-- keys (kind 1), and the new events with their places in the arrays (kind 2). Leases events to the worker only if `takes` is true.
CREATE FUNCTION botisimo.write(
    worker bigint,
    finished bigint[],
    finished_keyed boolean,
    message_ids text[],
    event_types text[],
    keys bytea[],
    leased boolean[],
    received timestamptz[],
    traceparents text[],
    bodies text[],
    id_bytes bytea[],
    duplicate_window interval,
    takes boolean
) RETURNS TABLE (kind int, id bigint, place int, is_owned boolean) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    new_keys uuid[];
    finished_keys uuid[];
    self bigint := CASE WHEN takes THEN botisimo.living(worker) ELSE 0 END;
BEGIN
    -- The role may have turned it off, but the receiver answers 200 only if the event is on disk. A SET clause would end with the function,
    -- before the commit.
    PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
    SELECT array_agg(botisimo.hash(k)) INTO new_keys FROM unnest(keys) AS u (k) WHERE k IS NOT NULL;
    IF finished_keyed THEN
        SELECT array_agg(e.order_key) INTO finished_keys FROM botisimo.events AS e
        WHERE e.id = ANY (finished) AND e.order_key IS NOT NULL;
    END IF;
    IF new_keys IS NOT NULL OR finished_keys IS NOT NULL THEN
        PERFORM botisimo.lock_keys(new_keys || finished_keys);
    END IF;
    IF cardinality(finished) > 0 THEN
        RETURN QUERY
        WITH d AS (
            DELETE FROM botisimo.events AS e WHERE e.id = ANY (ARRAY(
                SELECT x.id FROM botisimo.events AS x WHERE x.id = ANY (finished) AND x.owner + 0 = worker FOR UPDATE SKIP LOCKED
            )) RETURNING e.id
        ), f AS (
            DELETE FROM botisimo.finished_routes AS r USING d WHERE r.event_id = d.id
        )
        SELECT 0, d.id, NULL::int, NULL::boolean FROM d;
        IF finished_keys IS NOT NULL THEN
            RETURN QUERY SELECT 1, u.id, NULL::int, self <> 0 FROM botisimo.unblock(finished_keys, self) AS u (id);
        END IF;
    END IF;
    IF cardinality(message_ids) > 0 THEN
        RETURN QUERY
        WITH n AS MATERIALIZED (
            SELECT s.o::int AS o, botisimo.hash(s.h) AS h, botisimo.hash(s.k) AS k, s.m, s.t, s.l, s.r, s.p, s.b,
                nextval('botisimo.event_ids') AS id
            FROM (
                SELECT * FROM unnest(message_ids, event_types, keys, leased, received, traceparents, bodies, id_bytes)
                    WITH ORDINALITY AS u (m, t, k, l, r, p, b, h, o) ORDER BY o
            ) AS s
        ), i AS (
            -- In the order of the hashes, so that no two transactions wait for each other.
            INSERT INTO botisimo.message_ids AS mi (message_id, event_id)
            SELECT h, n.id FROM n WHERE duplicate_window IS NOT NULL ORDER BY h
            ON CONFLICT (message_id) DO UPDATE SET event_id = excluded.event_id, accepted_at = now()
                WHERE mi.accepted_at < now() - duplicate_window
            RETURNING mi.event_id
        ), e AS (
            INSERT INTO botisimo.events AS ev
                (id, owner, order_key, blocked, message_id, event_type, received_at, traceparent, body)
            SELECT s.id, CASE WHEN s.l AND NOT s.is_blocked THEN self ELSE 0 END, s.k, s.is_blocked, s.m, s.t, s.r, s.p, s.b
            FROM (
                SELECT n.*, n.k IS NOT NULL AND (
                    row_number() OVER (PARTITION BY n.k ORDER BY n.id) > 1
                    OR EXISTS (SELECT FROM botisimo.events AS x WHERE x.order_key = n.k)
                    OR EXISTS (SELECT FROM botisimo.dead_letters AS d WHERE d.order_key = n.k AND d.blocks_key)
                ) AS is_blocked
                FROM n LEFT JOIN i ON i.event_id = n.id
                WHERE duplicate_window IS NULL OR i.event_id IS NOT NULL
            ) AS s
            RETURNING ev.id, ev.owner
        )
        SELECT 2, n.id, n.o, e.owner <> 0 FROM n JOIN e ON e.id = n.id;
    END IF;
END $$;

-- Moves events that every route has handled, or that no route matched, to the table handled. Returns the moved events (kind 0), and the
-- next events of their keys (kind 1).
CREATE FUNCTION botisimo.keep(
    worker bigint,
    ids bigint[],
    is_unhandled boolean[],
    attempt_counts int[],
    results text[],
    attempts text[],
    takes boolean
) RETURNS TABLE (kind int, id bigint) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    order_keys uuid[];
BEGIN
    SELECT array_agg(e.order_key) INTO order_keys FROM botisimo.events AS e WHERE e.id = ANY (ids) AND e.order_key IS NOT NULL;
    IF order_keys IS NOT NULL THEN
        PERFORM botisimo.lock_keys(order_keys);
    END IF;
    RETURN QUERY
    WITH d AS (
        DELETE FROM botisimo.events AS e WHERE e.id = ANY (ARRAY(
            SELECT x.id FROM botisimo.events AS x WHERE x.id = ANY (ids) AND x.owner + 0 = worker FOR UPDATE SKIP LOCKED
        )) RETURNING e.*
    ), f AS (
        DELETE FROM botisimo.finished_routes AS r USING d WHERE r.event_id = d.id
    )
    INSERT INTO botisimo.handled AS h
        (id, received_at, unhandled, attempts, order_key, message_id, event_type, routes, history, traceparent, body)
    SELECT d.id, d.received_at, u.unhandled, u.count, d.order_key, d.message_id, d.event_type, u.result,
        (coalesce(d.history, '{}') || u.attempt)[greatest(cardinality(d.history) - 23, 1):], d.traceparent, d.body
    FROM d JOIN unnest(ids, is_unhandled, attempt_counts, results, attempts) AS u (id, unhandled, count, result, attempt) ON u.id = d.id
    RETURNING 0, h.id;
    IF order_keys IS NOT NULL THEN
        RETURN QUERY SELECT 1, u.id FROM botisimo.unblock(order_keys, CASE WHEN takes THEN botisimo.living(worker) ELSE 0 END) AS u (id);
    END IF;
END $$;

-- Moves events to the dead letters. A route that has called complete stays finished, so that a replay doesn't run it. Returns the moved events (kind 0), and the next events of their keys (kind 1), if the letters don't
-- block their keys.
CREATE FUNCTION botisimo.dead_letter(
    worker bigint,
    ids bigint[],
    attempt_counts int[],
    results text[],
    causes text[],
    attempts text[],
    blocks boolean,
    takes boolean
) RETURNS TABLE (kind int, id bigint) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    order_keys uuid[];
BEGIN
    SELECT array_agg(e.order_key) INTO order_keys FROM botisimo.events AS e WHERE e.id = ANY (ids) AND e.order_key IS NOT NULL;
    IF order_keys IS NOT NULL THEN
        PERFORM botisimo.lock_keys(order_keys);
    END IF;
    RETURN QUERY
    WITH d AS (
        DELETE FROM botisimo.events AS e WHERE e.id = ANY (ARRAY(
            SELECT x.id FROM botisimo.events AS x WHERE x.id = ANY (ids) AND x.owner + 0 = worker FOR UPDATE SKIP LOCKED
        )) RETURNING e.*
    )
    INSERT INTO botisimo.dead_letters AS l
        (id, received_at, attempts, order_key, blocks_key, message_id, event_type, routes, cause, history, traceparent, body)
    SELECT d.id, d.received_at, u.count, d.order_key, blocks AND d.order_key IS NOT NULL, d.message_id, d.event_type, u.result, u.cause,
        CASE WHEN u.attempt IS NULL THEN d.history
            ELSE (coalesce(d.history, '{}') || u.attempt)[greatest(cardinality(d.history) - 23, 1):] END,
        d.traceparent, d.body
    FROM d JOIN unnest(ids, attempt_counts, results, causes, attempts) AS u (id, count, result, cause, attempt) ON u.id = d.id
    RETURNING 0, l.id;
    IF order_keys IS NOT NULL AND NOT blocks THEN
        RETURN QUERY SELECT 1, u.id FROM botisimo.unblock(order_keys, CASE WHEN takes THEN botisimo.living(worker) ELSE 0 END) AS u (id);
    END IF;
END $$;

-- Schedules the next attempts of events. Returns the events.
CREATE FUNCTION botisimo.retry(
    worker bigint,
    ids bigint[],
    releases boolean[],
    delays bigint[],
    attempt_numbers int[],
    results text[],
    are_waiting boolean[],
    uneven text[],
    attempts text[]
) RETURNS SETOF bigint LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE botisimo.events AS e SET
        owner = CASE WHEN u.releases THEN 0 ELSE e.owner END,
        due_at = now() + u.delay * interval '1 millisecond',
        attempt = u.number,
        takeovers = 0,
        routes = u.result,
        routes_waiting = u.are_waiting,
        waiting = u.uneven,
        history = (coalesce(e.history, '{}') || u.attempt)[greatest(cardinality(e.history) - 23, 1):]
    FROM unnest(ids, releases, delays, attempt_numbers, results, are_waiting, uneven, attempts)
        AS u (id, releases, delay, number, result, are_waiting, uneven, attempt)
    WHERE e.id = u.id AND e.id = ANY (ARRAY(
        SELECT x.id FROM botisimo.events AS x WHERE x.id = ANY (ids) AND x.owner + 0 = worker FOR UPDATE SKIP LOCKED
    ))
    RETURNING e.id;
END $$;

-- Leases events without an owner to the worker. Events whose owners died at least twice may crash their process: of these, leases at
-- most the second number.
CREATE FUNCTION botisimo.claim(worker bigint, free int, free_candidates int) RETURNS SETOF botisimo.events
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF botisimo.living(worker) = 0 THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE botisimo.events AS e SET owner = worker WHERE e.id = ANY (ARRAY(
        SELECT x.id FROM botisimo.events AS x
        WHERE x.owner = 0 AND NOT x.blocked AND x.due_at <= now() AND x.takeovers < 2
        ORDER BY x.due_at, x.id LIMIT free FOR UPDATE SKIP LOCKED
    )) RETURNING e.*;
    IF free_candidates > 0 THEN
        RETURN QUERY
        UPDATE botisimo.events AS e SET owner = worker WHERE e.id = ANY (ARRAY(
            SELECT x.id FROM botisimo.events AS x
            WHERE x.owner = 0 AND NOT x.blocked AND x.due_at <= now() AND x.takeovers >= 2
            ORDER BY x.due_at, x.id LIMIT free_candidates FOR UPDATE SKIP LOCKED
        )) RETURNING e.*;
    END IF;
END $$;

-- Extends the worker's lease, and releases the events of workers that died. Returns whether the worker still has its events, the number
-- of released events, and whether an event without an owner is due.
CREATE FUNCTION botisimo.heartbeat(worker bigint, lease interval)
RETURNS TABLE (is_alive boolean, released bigint, is_ready boolean) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    dead bigint[];
BEGIN
    UPDATE botisimo.workers AS w SET alive_until = now() + lease WHERE w.id = worker;
    is_alive := FOUND;
    DELETE FROM botisimo.workers AS w WHERE w.id = ANY (ARRAY(
        SELECT x.id FROM botisimo.workers AS x WHERE x.alive_until < now() FOR UPDATE SKIP LOCKED
    ));
    -- Each owner costs one step in the index.
    WITH RECURSIVE o (owner) AS (
        (SELECT e.owner FROM botisimo.events AS e WHERE e.owner <> 0 ORDER BY e.owner LIMIT 1)
        UNION ALL
        SELECT (SELECT e.owner FROM botisimo.events AS e WHERE e.owner <> 0 AND e.owner > o.owner ORDER BY e.owner LIMIT 1)
        FROM o WHERE o.owner IS NOT NULL
    )
    SELECT array_agg(o.owner) INTO dead FROM o
    WHERE o.owner IS NOT NULL AND NOT EXISTS (SELECT FROM botisimo.workers AS w WHERE w.id = o.owner);
    released := 0;
    IF dead IS NOT NULL THEN
        -- A handler's open transaction may have locked an event: the next heartbeat releases it.
        UPDATE botisimo.events AS e SET owner = 0, takeovers = e.takeovers + 1 WHERE e.id = ANY (ARRAY(
            SELECT x.id FROM botisimo.events AS x WHERE x.owner = ANY (dead) AND x.owner <> 0 FOR UPDATE SKIP LOCKED
        ));
        GET DIAGNOSTICS released = ROW_COUNT;
    END IF;
    is_ready := EXISTS (SELECT FROM botisimo.events AS e WHERE e.owner = 0 AND NOT e.blocked AND e.due_at <= now());
    RETURN NEXT;
END $$;

-- Deletes dead letters, and lets the next events of the keys run that the letters blocked. Returns the number of deleted letters.
CREATE FUNCTION botisimo.delete_dead_letters(ids bigint[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    order_keys uuid[];
    deleted bigint;
BEGIN
    SELECT array_agg(d.order_key) INTO order_keys FROM botisimo.dead_letters AS d WHERE d.id = ANY (ids) AND d.blocks_key;
    IF order_keys IS NOT NULL THEN
        PERFORM botisimo.lock_keys(order_keys);
    END IF;
    DELETE FROM botisimo.dead_letters AS d WHERE d.id = ANY (ids);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    DELETE FROM botisimo.finished_routes AS f WHERE f.event_id = ANY (ids);
    IF order_keys IS NOT NULL THEN
        PERFORM botisimo.unblock(order_keys, 0);
    END IF;
    RETURN deleted;
END $$;

-- Turns an ended event back into an event in flight. Routes that have called complete run again if the replay names them or runs all
-- routes. Returns whether the event existed.
CREATE FUNCTION botisimo.replay(event bigint, finished text, only_one text, runs_all boolean) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ended record;
BEGIN
    SELECT d.order_key INTO ended FROM botisimo.dead_letters AS d WHERE d.id = event
    UNION ALL SELECT h.order_key FROM botisimo.handled AS h WHERE h.id = event;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF ended.order_key IS NOT NULL THEN
        PERFORM botisimo.lock_keys(ARRAY[ended.order_key]);
    END IF;
    DELETE FROM botisimo.finished_routes AS f WHERE f.event_id = event AND (runs_all OR f.route = only_one);
    WITH d AS (
        DELETE FROM botisimo.dead_letters AS d WHERE d.id = event
        RETURNING d.id, d.received_at, d.order_key, d.message_id, d.event_type, d.history, d.traceparent, d.body
    ), h AS (
        DELETE FROM botisimo.handled AS h WHERE h.id = event
        RETURNING h.id, h.received_at, h.order_key, h.message_id, h.event_type, h.history, h.traceparent, h.body
    ), e AS (
        SELECT * FROM d UNION ALL SELECT * FROM h LIMIT 1
    )
    INSERT INTO botisimo.events
        (id, received_at, order_key, blocked, message_id, event_type, routes, only_route, history, traceparent, body)
    SELECT e.id, e.received_at, e.order_key,
        e.order_key IS NOT NULL AND (
            EXISTS (SELECT FROM botisimo.events AS x WHERE x.order_key = e.order_key AND NOT x.blocked)
            OR EXISTS (SELECT FROM botisimo.dead_letters AS x WHERE x.order_key = e.order_key AND x.blocks_key AND x.id <> event)
        ),
        e.message_id, e.event_type, finished, only_one, e.history, e.traceparent, e.body
    FROM e;
    RETURN FOUND;
END $$;

-- Records, in the handler's own transaction, that a route has handled an event. Raises if the worker has lost the event, or if the route
-- has handled the event already.
CREATE FUNCTION botisimo.complete(event bigint, worker bigint, route text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    added int;
BEGIN
    -- Shared, so that other routes of the event may complete at the same time.
    PERFORM 1 FROM botisimo.events AS e WHERE e.id = complete.event AND e.owner + 0 = complete.worker FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the worker has lost the event %: roll back', event USING ERRCODE = 'BW001';
    END IF;
    INSERT INTO botisimo.finished_routes VALUES (complete.event, complete.route) ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added = 0 THEN
        RAISE EXCEPTION 'the route % has handled the event % already: roll back', route, event USING ERRCODE = 'BW002';
    END IF;
END $$;
