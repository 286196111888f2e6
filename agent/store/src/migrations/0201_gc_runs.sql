-- Runs of garbage collection and of prune. Times are milliseconds since 1970. Nothing on disk depends on a row.
CREATE TABLE gc_runs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    started_by TEXT NOT NULL,    -- policy, prune, plan, pressure
    started    INTEGER NOT NULL,
    finished   INTEGER NOT NULL,
    records    INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    removals   TEXT NOT NULL     -- JSON
) STRICT;
