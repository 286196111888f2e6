-- Manifests and configs of images, by digest and by the repository that they were read from: small, and needed
-- again by every build that uses the image. Whoever may read one repository learns nothing of another one's.
CREATE TABLE documents (
    digest     TEXT NOT NULL,
    repository TEXT NOT NULL,
    media_type TEXT NOT NULL,
    bytes      BLOB NOT NULL,
    used       INTEGER NOT NULL, -- seconds since 1970
    PRIMARY KEY (digest, repository)
) STRICT, WITHOUT ROWID;
CREATE INDEX documents_used ON documents (used);
