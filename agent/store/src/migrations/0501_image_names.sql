-- Names of the local image store. They don't carry an epoch: setting one waits for a barrier.
CREATE TABLE image_names (
    name       TEXT PRIMARY KEY, -- docker.io/library/alpine:latest
    descriptor TEXT NOT NULL,    -- JSON of the OCI descriptor
    created    INTEGER NOT NULL, -- seconds since 1970
    updated    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
