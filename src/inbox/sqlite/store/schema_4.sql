-- The routes that wait for a retry, if they have other delays or other attempts than the event, as JSON:
-- [{"route": "a", "attempts": 2, "ms": 1500}]
-- `ms` is the delay after the event's next attempt. 0 means that the route runs in that attempt.
ALTER TABLE events ADD COLUMN waiting TEXT;
