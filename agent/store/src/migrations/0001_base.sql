-- The state of sync epochs. One row.
CREATE TABLE epoch_state (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    durable INTEGER NOT NULL, -- the newest epoch whose records and files are known to be on the disk
    in_use  INTEGER NOT NULL, -- 1 while a daemon runs; 1 at start means that it didn't end well
    boot_id TEXT NOT NULL     -- of the kernel that the last daemon ran on
) STRICT;
INSERT INTO epoch_state VALUES (1, 0, 0, '');

-- Tables whose rows carry the epoch in which they were written (column `epoch`, default current_epoch()). After an unclean
-- start rows newer than the last durable epoch are deleted, table by table in the order of `position`.
CREATE TABLE epoch_tables (
    name     TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT;
