-- Blobs in ROOT/content/blobs/sha256. A row is written after its file has its name.
CREATE TABLE blobs (
    digest  TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    created INTEGER NOT NULL, -- seconds since 1970
    epoch   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO epoch_tables VALUES ('blobs', 300);

-- What clients of the content API and distribution know of a blob: distribution.source.<registry> and the like.
CREATE TABLE blob_labels (
    digest TEXT NOT NULL REFERENCES blobs (digest) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (digest, name)
) STRICT, WITHOUT ROWID;
