"""The first schema of study.db, as m001 makes it. It never changes: files of that age still have to migrate."""

MAX_COMMENT = 2000

STUDY = """
CREATE TABLE study (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    uid TEXT NOT NULL,                  -- names the cookie, so that two studies on one host keep apart
    name TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('live', 'fixed', 'side-by-side')),
    seed INTEGER NOT NULL,
    ratings_per_cell INTEGER NOT NULL CHECK (ratings_per_cell >= 1),
    scenarios_per_rater INTEGER NOT NULL CHECK (scenarios_per_rater >= 1),
    consent TEXT NOT NULL,
    consent_version INTEGER NOT NULL CHECK (consent_version >= 1),
    content TEXT NOT NULL,              -- digest of mode, seed, scenarios, arm keys and answers
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paused', 'closed')),
    created_at TEXT NOT NULL
) STRICT;

CREATE TABLE scenario (
    id TEXT PRIMARY KEY,
    category TEXT NOT NULL,
    goal TEXT NOT NULL,
    opening TEXT NOT NULL,
    turns INTEGER NOT NULL CHECK (turns >= 1),
    reached TEXT NOT NULL,
    ord INTEGER NOT NULL UNIQUE
) STRICT;

CREATE TABLE arm (key TEXT PRIMARY KEY) STRICT;

CREATE TABLE answer (
    id INTEGER PRIMARY KEY,
    scenario TEXT NOT NULL REFERENCES scenario (id),
    arm_key TEXT NOT NULL REFERENCES arm (key),
    messages TEXT NOT NULL CHECK (json_valid(messages)),
    UNIQUE (scenario, arm_key)
) STRICT;
"""

RATERS = """
CREATE TABLE rater (
    id INTEGER PRIMARY KEY,
    label TEXT NOT NULL UNIQUE,         -- pseudonym such as R01
    kind TEXT NOT NULL CHECK (kind IN ('person', 'judge', 'simulated')),
    token_hash TEXT NOT NULL UNIQUE,    -- sha256 of the cookie; the cookie itself is never stored
    joined_at TEXT NOT NULL,
    consented_at TEXT,
    consent_version INTEGER,
    last_seen TEXT NOT NULL,
    CHECK (kind <> 'person' OR (consented_at IS NOT NULL AND consent_version IS NOT NULL))
) STRICT;

CREATE TABLE code (
    rater INTEGER NOT NULL REFERENCES rater (id),
    arm_key TEXT NOT NULL REFERENCES arm (key),
    code TEXT NOT NULL,
    PRIMARY KEY (rater, arm_key),
    UNIQUE (rater, code),
    UNIQUE (rater, arm_key, code)
) STRICT;

CREATE TABLE assignment (
    id INTEGER PRIMARY KEY,
    rater INTEGER NOT NULL REFERENCES rater (id),
    scenario TEXT NOT NULL REFERENCES scenario (id),
    arm_key TEXT NOT NULL,
    code TEXT NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 1),
    opened_at TEXT,                     -- first shown
    shown_at TEXT,                      -- last shown: the clock of `seconds` starts here
    done_at TEXT,                       -- first rated
    UNIQUE (rater, scenario, arm_key),
    UNIQUE (rater, position),
    FOREIGN KEY (rater, arm_key, code) REFERENCES code (rater, arm_key, code)
) STRICT;

CREATE INDEX assignment_cell ON assignment (scenario, arm_key);
"""

RATINGS = f"""
CREATE TABLE rating (
    assignment INTEGER PRIMARY KEY REFERENCES assignment (id),
    satisfaction INTEGER NOT NULL CHECK (satisfaction BETWEEN 1 AND 5),
    goal_achievement INTEGER NOT NULL CHECK (goal_achievement BETWEEN 1 AND 5),
    comment TEXT NOT NULL CHECK (length(comment) <= {MAX_COMMENT}),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

-- Every revision of every rating, the current one included. Rows are only ever added.
CREATE TABLE rating_event (
    id INTEGER PRIMARY KEY,
    assignment INTEGER NOT NULL REFERENCES assignment (id),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    satisfaction INTEGER NOT NULL CHECK (satisfaction BETWEEN 1 AND 5),
    goal_achievement INTEGER NOT NULL CHECK (goal_achievement BETWEEN 1 AND 5),
    comment TEXT NOT NULL CHECK (length(comment) <= {MAX_COMMENT}),
    seconds REAL NOT NULL CHECK (seconds >= 0),
    at TEXT NOT NULL,
    UNIQUE (assignment, revision)
) STRICT;

CREATE TRIGGER rating_event_keeps_rows BEFORE DELETE ON rating_event
BEGIN SELECT RAISE(ABORT, 'rating_event only grows'); END;

CREATE TRIGGER rating_event_keeps_values BEFORE UPDATE ON rating_event
BEGIN SELECT RAISE(ABORT, 'rating_event only grows'); END;

CREATE VIEW tidy_ratings AS
SELECT rater.label AS rater, rater.kind, assignment.scenario, scenario.category, assignment.arm_key,
       assignment.code, assignment.position, rating.satisfaction, rating.goal_achievement, rating.comment,
       rating.seconds, rating.revision, rating.created_at, rating.updated_at
FROM rating
JOIN assignment ON assignment.id = rating.assignment
JOIN rater ON rater.id = assignment.rater
JOIN scenario ON scenario.id = assignment.scenario
ORDER BY rater.id, assignment.position;
"""
