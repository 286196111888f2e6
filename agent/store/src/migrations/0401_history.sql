-- Records of finished builds, encoded as BuildKit's BuildHistoryRecord. The blobs that they name are content.
CREATE TABLE history_records (
    ref    TEXT PRIMARY KEY,
    record BLOB NOT NULL,
    epoch  INTEGER NOT NULL
) STRICT;
INSERT INTO epoch_tables VALUES ('history_records', 400);
