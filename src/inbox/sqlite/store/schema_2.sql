-- The W3C Trace Context of the request that brought the event. NULL if the request had none.
ALTER TABLE events ADD COLUMN traceparent TEXT;

ALTER TABLE dead_letters ADD COLUMN traceparent TEXT;
