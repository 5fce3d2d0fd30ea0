"""m003: model judges. Their marks of single answers are ratings like anyone's; every reply of theirs is kept here."""

JUDGES = """
CREATE TABLE judge (
    rater INTEGER PRIMARY KEY REFERENCES rater (id) ON DELETE CASCADE,
    name TEXT NOT NULL,                 -- as the study file has it
    mode TEXT NOT NULL CHECK (mode IN ('single', 'pairwise')),
    model TEXT NOT NULL,
    host TEXT NOT NULL,                 -- of its endpoint, without path or key; '' for a model that runs here
    rubric TEXT NOT NULL,               -- version of what it is asked
    settings TEXT NOT NULL CHECK (json_valid(settings)),
    UNIQUE (name, mode)
) STRICT;

-- Every reply of a judge, also those that could not be read (`problem`); an item is asked again until one can.
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY,
    judge INTEGER NOT NULL REFERENCES judge (rater) ON DELETE CASCADE,
    scenario TEXT NOT NULL REFERENCES scenario (id),
    first TEXT NOT NULL REFERENCES arm (key),       -- the answer that was judged, or the one shown first
    second TEXT REFERENCES arm (key),               -- pairwise: the one shown second
    chat INTEGER REFERENCES chat (assignment) ON DELETE CASCADE,    -- a rater's live chat; NULL: the prepared answer
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    problem TEXT,                       -- why the reply cannot be used; NULL: it can
    satisfaction INTEGER CHECK (satisfaction BETWEEN 1 AND 5),
    goal_achievement INTEGER CHECK (goal_achievement BETWEEN 1 AND 5),
    score_first INTEGER CHECK (score_first BETWEEN 1 AND 5),
    score_second INTEGER CHECK (score_second BETWEEN 1 AND 5),
    winner TEXT CHECK (winner IN ('first', 'second', 'tie')),
    reason TEXT NOT NULL,
    raw TEXT NOT NULL,
    length_first INTEGER NOT NULL,      -- characters of the assistant's texts
    length_second INTEGER,
    tokens_in INTEGER,                  -- NULL where the server does not say
    tokens_out INTEGER,
    seconds REAL NOT NULL CHECK (seconds >= 0),
    at TEXT NOT NULL,
    CHECK (problem IS NOT NULL OR (satisfaction IS NOT NULL AND goal_achievement IS NOT NULL AND second IS NULL)
        OR (score_first IS NOT NULL AND score_second IS NOT NULL AND winner IS NOT NULL AND second IS NOT NULL)),
    CHECK (second IS NULL OR second <> first)
) STRICT;

CREATE UNIQUE INDEX verdict_once ON verdict
    (judge, scenario, first, coalesce(second, ''), coalesce(chat, 0), attempt);
CREATE UNIQUE INDEX verdict_valid ON verdict (judge, scenario, first, coalesce(second, ''), coalesce(chat, 0))
    WHERE problem IS NULL;

-- One row for each judge and mode, and what became of its requests. An item without a readable reply is `unanswered`.
CREATE VIEW tidy_judges AS
SELECT rater.label AS judge, judge.name, judge.mode, judge.model, judge.host, judge.rubric, judge.settings,
       (SELECT count(*) FROM verdict WHERE verdict.judge = judge.rater) AS replies,
       (SELECT count(*) FROM verdict WHERE verdict.judge = judge.rater AND problem IS NOT NULL) AS invalid,
       (SELECT count(*) FROM verdict WHERE verdict.judge = judge.rater AND problem IS NULL) AS verdicts,
       (SELECT count(*) FROM verdict WHERE verdict.judge = judge.rater AND problem IS NULL AND attempt > 1) AS late,
       (SELECT count(*) FROM (
           SELECT 1 FROM verdict WHERE verdict.judge = judge.rater
           GROUP BY scenario, first, second, chat HAVING sum(problem IS NULL) = 0)) AS unanswered,
       (SELECT sum(tokens_in) FROM verdict WHERE verdict.judge = judge.rater) AS tokens_in,
       (SELECT sum(tokens_out) FROM verdict WHERE verdict.judge = judge.rater) AS tokens_out,
       (SELECT json_group_object(problem, n) FROM (
           SELECT problem, count(*) AS n FROM verdict
           WHERE verdict.judge = judge.rater AND problem IS NOT NULL GROUP BY problem ORDER BY problem)) AS problems
FROM judge JOIN rater ON rater.id = judge.rater
ORDER BY judge.rater;

-- One row for each readable verdict; `texts` is the mode in which people rate the same. `chat_rater` had the live
-- chat that was judged, '' for a prepared answer.
CREATE VIEW tidy_verdicts AS
SELECT rater.label AS judge, judge.name, judge.mode, scenario.mode AS texts, verdict.scenario, scenario.category,
       verdict.first AS arm_key, verdict.second AS arm_key_second, coalesce(host.label, '') AS chat_rater,
       verdict.satisfaction, verdict.goal_achievement, verdict.score_first, verdict.score_second, verdict.winner,
       verdict.reason, verdict.attempt, verdict.length_first, verdict.length_second, verdict.at
FROM verdict
JOIN judge ON judge.rater = verdict.judge
JOIN rater ON rater.id = judge.rater
JOIN scenario ON scenario.id = verdict.scenario
LEFT JOIN assignment ON assignment.id = verdict.chat
LEFT JOIN rater AS host ON host.id = assignment.rater
WHERE verdict.problem IS NULL
ORDER BY judge.rater, scenario.ord, verdict.first, verdict.second, verdict.chat;
"""
