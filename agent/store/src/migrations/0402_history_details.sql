-- What Kiln keeps of a build beside BuildKit's record: its project, and where the ingredients of its steps are (JSON).
ALTER TABLE history_records ADD COLUMN details TEXT NOT NULL DEFAULT '{}';
-- Mixed into digests of arguments, so that nobody can find a value by trying.
CREATE TABLE history_salt (salt BLOB NOT NULL) STRICT;
INSERT INTO history_salt VALUES (randomblob(32));
