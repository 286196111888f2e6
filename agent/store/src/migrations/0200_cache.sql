-- The records of kiln-cache. A record's row is written at its birth and when it changes its nature (mutable to immutable);
-- what is learnt about its layer later (extracted, blobs, hash tree) has rows of its own, so that a crash loses only that.
CREATE TABLE cache_records (
    id          TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    body        TEXT NOT NULL, -- JSON: lineage, layer, description, kind, …
    last_used   INTEGER,       -- milliseconds since 1970
    usage_count INTEGER NOT NULL DEFAULT 0,
    size        INTEGER        -- bytes of its snapshot, once measured
) STRICT;

-- A row says that the snapshot holds the layer's files.
CREATE TABLE cache_layers (
    snapshot TEXT PRIMARY KEY,
    epoch    INTEGER NOT NULL,
    body     TEXT NOT NULL -- JSON: diff id, implied directories
) STRICT;

-- Forms in which a layer is known as a blob, which need not be here.
CREATE TABLE cache_blobs (
    snapshot TEXT NOT NULL,
    position INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    body     TEXT NOT NULL, -- JSON: descriptor, diff id, sources
    PRIMARY KEY (snapshot, position)
) STRICT;

-- Values kept with a record: its hash tree, the state of a protocol.
CREATE TABLE cache_values (
    record TEXT NOT NULL,
    name   TEXT NOT NULL,
    epoch  INTEGER NOT NULL,
    value  BLOB NOT NULL,
    PRIMARY KEY (record, name)
) STRICT;

INSERT INTO epoch_tables VALUES
    ('cache_values', 200),
    ('cache_blobs', 201),
    ('cache_layers', 202),
    ('cache_records', 203);
