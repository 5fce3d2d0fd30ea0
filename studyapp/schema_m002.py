"""m002: live and side-by-side chats, invitations, leases, known answers, the owner's log, and withdrawal.

The tables of raters and ratings are made anew, since SQLite can change neither a UNIQUE nor a NOT NULL in place. The
old ones are renamed, copied and dropped, children first, so that foreign keys hold at every step.
"""

MAX_COMMENT = 2000
MAX_MESSAGE = 4000

STUDY = """
ALTER TABLE study ADD COLUMN crossing TEXT NOT NULL DEFAULT 'within' CHECK (crossing IN ('within', 'between'));
ALTER TABLE study ADD COLUMN language TEXT NOT NULL DEFAULT 'en';
ALTER TABLE study ADD COLUMN open_join INTEGER NOT NULL DEFAULT 1 CHECK (open_join IN (0, 1));
ALTER TABLE study ADD COLUMN max_raters INTEGER CHECK (max_raters >= 1);   -- who join without an invitation; NULL: any
ALTER TABLE study ADD COLUMN lease_minutes REAL NOT NULL DEFAULT 120 CHECK (lease_minutes > 0);
ALTER TABLE study ADD COLUMN check_every INTEGER NOT NULL DEFAULT 10 CHECK (check_every >= 1);
ALTER TABLE study ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0 CHECK (repeats >= 0);
ALTER TABLE study ADD COLUMN side INTEGER NOT NULL DEFAULT 2 CHECK (side BETWEEN 2 AND 4);
ALTER TABLE study ADD COLUMN questions INTEGER NOT NULL DEFAULT 0 CHECK (questions IN (0, 1));
ALTER TABLE study ADD COLUMN completion_code TEXT;
ALTER TABLE study ADD COLUMN completion_url TEXT;
ALTER TABLE study ADD COLUMN self_words TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(self_words));
ALTER TABLE study ADD COLUMN pace TEXT CHECK (pace IS NULL OR json_valid(pace));  -- cps, tick, delay, g, F, at
ALTER TABLE study ADD COLUMN margin REAL;
ALTER TABLE study ADD COLUMN margin_at TEXT;
ALTER TABLE study ADD COLUMN closed_at TEXT;
ALTER TABLE study ADD COLUMN settings TEXT;     -- what the study file said last: the owner's changes outlast a restart

ALTER TABLE scenario ADD COLUMN mode TEXT NOT NULL DEFAULT 'fixed' CHECK (mode IN ('live', 'fixed', 'side-by-side'));

-- Items with a known answer, of no arm. Those that share goal, opening and `reached` can stand on one page.
CREATE TABLE extra (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('training', 'check')),
    ord INTEGER NOT NULL,
    goal TEXT NOT NULL,
    opening TEXT NOT NULL,
    reached TEXT NOT NULL,
    messages TEXT NOT NULL CHECK (json_valid(messages)),
    satisfaction_from INTEGER NOT NULL CHECK (satisfaction_from BETWEEN 1 AND 5),
    satisfaction_to INTEGER NOT NULL CHECK (satisfaction_to BETWEEN satisfaction_from AND 5),
    goal_from INTEGER NOT NULL CHECK (goal_from BETWEEN 1 AND 5),
    goal_to INTEGER NOT NULL CHECK (goal_to BETWEEN goal_from AND 5),
    feedback TEXT NOT NULL,             -- training: shown once it is rated
    UNIQUE (kind, ord)
) STRICT;
"""

RATERS = """
CREATE TABLE rater (
    id INTEGER PRIMARY KEY,             -- the number in the label
    label TEXT NOT NULL UNIQUE,         -- pseudonym such as R01; never given twice, see withdrawal
    kind TEXT NOT NULL CHECK (kind IN ('person', 'judge', 'simulated')),
    slot INTEGER NOT NULL CHECK (slot >= 0),    -- turn of codes and orders; one that a withdrawal frees is taken again
    language TEXT NOT NULL DEFAULT 'en',
    joined_at TEXT NOT NULL,
    consented_at TEXT,
    consent_version INTEGER,
    last_seen TEXT NOT NULL,
    questions_at TEXT,                  -- the end questions were answered
    UNIQUE (kind, slot),
    CHECK (kind <> 'person' OR (consented_at IS NOT NULL AND consent_version IS NOT NULL))
) STRICT;

-- sha256 of a cookie's or a return link's token; the token itself is never stored.
CREATE TABLE token (
    hash TEXT PRIMARY KEY,
    rater INTEGER NOT NULL REFERENCES rater (id),
    purpose TEXT NOT NULL CHECK (purpose IN ('cookie', 'return')),
    at TEXT NOT NULL
) STRICT;

CREATE INDEX token_rater ON token (rater);
CREATE UNIQUE INDEX token_return ON token (rater) WHERE purpose = 'return';

CREATE TABLE invite (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    used_at TEXT,                       -- stays when its rater withdraws: an invitation is good for one claim
    rater INTEGER UNIQUE REFERENCES rater (id),
    note TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE code (
    rater INTEGER NOT NULL REFERENCES rater (id),
    arm_key TEXT NOT NULL REFERENCES arm (key),
    code TEXT NOT NULL,
    PRIMARY KEY (rater, arm_key),
    UNIQUE (rater, code),
    UNIQUE (rater, arm_key, code)
) STRICT;

-- All assignments that share rater and position are one page; `place` counts the panels on it from 1.
CREATE TABLE assignment (
    id INTEGER PRIMARY KEY AUTOINCREMENT,       -- never given twice: the model server knows a chat by it
    rater INTEGER NOT NULL REFERENCES rater (id),
    kind TEXT NOT NULL CHECK (kind IN ('rated', 'training', 'check', 'repeat')),
    mode TEXT NOT NULL CHECK (mode IN ('live', 'fixed', 'side-by-side')),
    scenario TEXT REFERENCES scenario (id),     -- NULL for training and checks, like arm_key
    arm_key TEXT,
    extra TEXT REFERENCES extra (id),
    code TEXT NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 1),
    place INTEGER NOT NULL CHECK (place >= 1),
    leased_until TEXT,                  -- held for its rater until then, NULL for good; every visit renews it
    released_at TEXT,                   -- no longer its rater's: not shown, not counted, and cannot be rated
    released_why TEXT CHECK (released_why IN ('lease', 'failure')),
    opened_at TEXT,                     -- first shown
    shown_at TEXT,                      -- last shown: the clock of `seconds` starts here
    done_at TEXT,                       -- first rated
    UNIQUE (rater, position, place),
    FOREIGN KEY (rater, arm_key, code) REFERENCES code (rater, arm_key, code),
    CHECK ((kind IN ('training', 'check')) = (extra IS NOT NULL)),
    CHECK ((scenario IS NULL) = (extra IS NOT NULL) AND (arm_key IS NULL) = (extra IS NOT NULL)),
    CHECK ((released_at IS NULL) = (released_why IS NULL)),
    CHECK (released_at IS NULL OR done_at IS NULL)
) STRICT;

CREATE UNIQUE INDEX assignment_once ON assignment (rater, kind, scenario, arm_key) WHERE scenario IS NOT NULL;
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

-- Every revision of every rating, the current one included. Rows are only ever added; see withdrawal.
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

-- Side by side: which code the rater prefers, NULL for none. Every revision stays; the highest one holds.
CREATE TABLE preference (
    rater INTEGER NOT NULL REFERENCES rater (id),
    position INTEGER NOT NULL CHECK (position >= 1),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    code TEXT,
    at TEXT NOT NULL,
    PRIMARY KEY (rater, position, revision)
) STRICT;

CREATE TABLE chat (
    assignment INTEGER PRIMARY KEY REFERENCES assignment (id),
    started_at TEXT NOT NULL,
    ended_at TEXT,
    ended_by TEXT CHECK (ended_by IN ('rater', 'limit', 'failure')),
    CHECK ((ended_at IS NULL) = (ended_by IS NULL))
) STRICT;

-- Turn `number` is the rater's message and, once it is there, its answer: two rows that differ in `role`.
CREATE TABLE turn (
    assignment INTEGER NOT NULL REFERENCES chat (assignment),
    number INTEGER NOT NULL CHECK (number >= 1),
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content TEXT NOT NULL CHECK (role = 'assistant' OR length(content) BETWEEN 1 AND {MAX_MESSAGE}),
    at TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1 CHECK (attempt >= 1),    -- user: how often the model has been asked
    finish TEXT,                        -- assistant: how the answer ended; NULL: none yet, ask again
    underruns INTEGER NOT NULL DEFAULT 0 CHECK (underruns >= 0),
    late_s REAL NOT NULL DEFAULT 0 CHECK (late_s >= 0),
    failed INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),      -- assistant: attempts that gave no answer
    PRIMARY KEY (assignment, number, role)
) STRICT;

-- Which of two codes the rater took for the larger model, NULL for 'cannot say'.
CREATE TABLE guess (
    rater INTEGER NOT NULL REFERENCES rater (id),
    code_a TEXT NOT NULL,
    code_b TEXT NOT NULL CHECK (code_b > code_a),
    larger TEXT CHECK (larger IN (code_a, code_b)),
    at TEXT NOT NULL,
    PRIMARY KEY (rater, code_a, code_b),
    FOREIGN KEY (rater, code_a) REFERENCES code (rater, code),
    FOREIGN KEY (rater, code_b) REFERENCES code (rater, code)
) STRICT;

CREATE TABLE problem (
    id INTEGER PRIMARY KEY,
    rater INTEGER NOT NULL REFERENCES rater (id),
    assignment INTEGER REFERENCES assignment (id),
    text TEXT NOT NULL CHECK (length(text) BETWEEN 1 AND {MAX_COMMENT}),
    at TEXT NOT NULL
) STRICT;

CREATE INDEX problem_rater ON problem (rater);

-- Who a rater is to a crowd platform. Never exported with ratings.
CREATE TABLE crowd (
    rater INTEGER PRIMARY KEY REFERENCES rater (id),
    platform TEXT NOT NULL,
    person TEXT NOT NULL,
    study TEXT NOT NULL,
    session TEXT NOT NULL,
    UNIQUE (platform, person, study)
) STRICT;

CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,                -- 'owner', 'cli' or 'rater:R01'
    action TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT ''
) STRICT;

-- All that stays of a rater who withdraws. Entered first: it is what lets the rater's history be deleted.
CREATE TABLE withdrawal (label TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT;
"""

TRIGGERS = """
CREATE TRIGGER rating_event_keeps_rows BEFORE DELETE ON rating_event
WHEN NOT EXISTS (
    SELECT 1 FROM assignment JOIN rater ON rater.id = assignment.rater JOIN withdrawal USING (label)
    WHERE assignment.id = OLD.assignment
)
BEGIN SELECT RAISE(ABORT, 'rating_event only grows'); END;

CREATE TRIGGER rating_event_keeps_values BEFORE UPDATE ON rating_event
BEGIN SELECT RAISE(ABORT, 'rating_event only grows'); END;

CREATE TRIGGER preference_keeps_rows BEFORE DELETE ON preference
WHEN NOT EXISTS (SELECT 1 FROM rater JOIN withdrawal USING (label) WHERE rater.id = OLD.rater)
BEGIN SELECT RAISE(ABORT, 'preference only grows'); END;

CREATE TRIGGER preference_keeps_values BEFORE UPDATE ON preference
BEGIN SELECT RAISE(ABORT, 'preference only grows'); END;

CREATE TRIGGER log_keeps_rows BEFORE DELETE ON log
BEGIN SELECT RAISE(ABORT, 'log only grows'); END;

CREATE TRIGGER log_keeps_values BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'log only grows'); END;
"""

SET_ASIDE = """
DROP VIEW tidy_ratings;
DROP TRIGGER rating_event_keeps_rows;
DROP TRIGGER rating_event_keeps_values;
DROP INDEX assignment_cell;
ALTER TABLE rater RENAME TO old_rater;
ALTER TABLE code RENAME TO old_code;
ALTER TABLE assignment RENAME TO old_assignment;
ALTER TABLE rating RENAME TO old_rating;
ALTER TABLE rating_event RENAME TO old_rating_event;
"""

# Open items get a lease that ended when their rater was last here: it holds until somebody else needs the item.
COPY = """
INSERT INTO rater (id, label, kind, slot, joined_at, consented_at, consent_version, last_seen)
SELECT id, label, kind, row_number() OVER (PARTITION BY kind ORDER BY id) - 1, joined_at, consented_at,
    consent_version, last_seen FROM old_rater;
INSERT INTO token (hash, rater, purpose, at) SELECT token_hash, id, 'cookie', joined_at FROM old_rater;
INSERT INTO code SELECT rater, arm_key, code FROM old_code;
INSERT INTO assignment (id, rater, kind, mode, scenario, arm_key, code, position, place, leased_until, opened_at,
    shown_at, done_at)
SELECT old_assignment.id, rater, 'rated', (SELECT mode FROM study), scenario, arm_key, code, position, 1,
    old_rater.last_seen, opened_at, shown_at, done_at
FROM old_assignment JOIN old_rater ON old_rater.id = rater ORDER BY old_assignment.id;
INSERT INTO rating SELECT assignment, satisfaction, goal_achievement, comment, seconds, revision, created_at,
    updated_at FROM old_rating;
INSERT INTO rating_event SELECT id, assignment, revision, satisfaction, goal_achievement, comment, seconds, at
FROM old_rating_event;
DROP TABLE old_rating_event;
DROP TABLE old_rating;
DROP TABLE old_assignment;
DROP TABLE old_code;
DROP TABLE old_rater;
"""

STEPS = (STUDY, SET_ASIDE, RATERS, RATINGS, COPY, TRIGGERS)
