-- The solver's keys, links and results (kiln-solver). Read whole at start; written behind.
CREATE TABLE cache_keys (
    id   INTEGER PRIMARY KEY,
    root BLOB UNIQUE -- record digest of a root key
) STRICT;

CREATE TABLE cache_links (
    parent   INTEGER NOT NULL,
    input    INTEGER NOT NULL,
    record   BLOB NOT NULL, -- sha256("<op digest>@<output>")
    selector BLOB NOT NULL, -- empty: none
    child    INTEGER NOT NULL,
    PRIMARY KEY (parent, input, record, selector, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_links_child ON cache_links (child);

CREATE TABLE cache_results (
    key     INTEGER NOT NULL,
    result  TEXT NOT NULL,
    created INTEGER NOT NULL, -- nanoseconds since 1970
    PRIMARY KEY (key, result)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_results_result ON cache_results (result);
