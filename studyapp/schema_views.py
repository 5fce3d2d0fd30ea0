"""The views of study.db: what the report, the dashboard and the export read. Arms appear under their keys."""

VIEWS = """
-- One row for each rating of a rated item. The columns up to updated_at are those of the first schema, in its order.
CREATE VIEW tidy_ratings AS
SELECT rater.label AS rater, rater.kind, assignment.scenario, scenario.category, assignment.arm_key,
       assignment.code, assignment.position, rating.satisfaction, rating.goal_achievement, rating.comment,
       rating.seconds, rating.revision, rating.created_at, rating.updated_at,
       assignment.mode, assignment.kind AS item, assignment.place
FROM rating
JOIN assignment ON assignment.id = rating.assignment
JOIN rater ON rater.id = assignment.rater
JOIN scenario ON scenario.id = assignment.scenario
WHERE assignment.kind = 'rated'
ORDER BY rater.id, assignment.position, assignment.place;

-- One row for each item that a rater has rated twice without being told; `distance` is in pages.
CREATE VIEW tidy_repeats AS
SELECT rater.label AS rater, rater.kind, first.scenario, scenario.category, first.arm_key, first.mode,
       first.position, one.satisfaction, one.goal_achievement,
       again.position AS again_position, two.satisfaction AS again_satisfaction,
       two.goal_achievement AS again_goal_achievement, again.position - first.position AS distance,
       first.place, again.place AS again_place
FROM assignment AS again
JOIN assignment AS first ON first.rater = again.rater AND first.scenario = again.scenario
    AND first.arm_key = again.arm_key AND first.kind = 'rated'
JOIN rating AS one ON one.assignment = first.id
JOIN rating AS two ON two.assignment = again.id
JOIN rater ON rater.id = again.rater
JOIN scenario ON scenario.id = again.scenario
WHERE again.kind = 'repeat'
ORDER BY rater.id, again.position, again.place;

-- One row for each rated item with a known answer; `passed` where both marks lie in its range.
CREATE VIEW tidy_checks AS
SELECT rater.label AS rater, rater.kind, assignment.kind AS item, extra.id AS extra, assignment.position,
       assignment.place, rating.satisfaction, rating.goal_achievement, extra.satisfaction_from,
       extra.satisfaction_to, extra.goal_from, extra.goal_to,
       rating.satisfaction BETWEEN extra.satisfaction_from AND extra.satisfaction_to
           AND rating.goal_achievement BETWEEN extra.goal_from AND extra.goal_to AS passed,
       rating.seconds, rating.created_at
FROM rating
JOIN assignment ON assignment.id = rating.assignment
JOIN extra ON extra.id = assignment.extra
JOIN rater ON rater.id = assignment.rater
ORDER BY rater.id, assignment.position, assignment.place;

-- One row for each side-by-side page with a preference; `arm_keys` is a JSON list in the order of the page, and
-- `preferred` NULL where the rater prefers none.
CREATE VIEW tidy_preferences AS
SELECT rater.label AS rater, rater.kind, page.scenario, scenario.category, page.item, preference.position,
       page.arm_keys, page.codes, preference.code AS preferred_code, code.arm_key AS preferred,
       preference.revision, preference.at
FROM preference
JOIN (
    SELECT rater, position, scenario, kind AS item, json_group_array(arm_key) AS arm_keys,
           json_group_array(code) AS codes
    FROM (SELECT * FROM assignment WHERE scenario IS NOT NULL ORDER BY rater, position, place)
    GROUP BY rater, position
) AS page ON page.rater = preference.rater AND page.position = preference.position
JOIN rater ON rater.id = preference.rater
JOIN scenario ON scenario.id = page.scenario
LEFT JOIN code ON code.rater = preference.rater AND code.code = preference.code
WHERE page.item = 'rated' AND preference.revision = (
    SELECT max(revision) FROM preference AS later
    WHERE later.rater = preference.rater AND later.position = preference.position
)
ORDER BY rater.id, preference.position;

-- One row for each pair of codes that a rater was asked about; `larger` NULL where the rater could not say.
CREATE VIEW tidy_guesses AS
SELECT rater.label AS rater, rater.kind, a.arm_key AS arm_key_a, b.arm_key AS arm_key_b,
       CASE guess.larger WHEN guess.code_a THEN a.arm_key WHEN guess.code_b THEN b.arm_key END AS larger, guess.at
FROM guess
JOIN rater ON rater.id = guess.rater
JOIN code AS a ON a.rater = guess.rater AND a.code = guess.code_a
JOIN code AS b ON b.rater = guess.rater AND b.code = guess.code_b
ORDER BY rater.id, guess.code_a, guess.code_b;

-- One row for each live chat, ended or not; `unpaced` where an answer fell behind the common rate.
CREATE VIEW tidy_live AS
SELECT rater.label AS rater, rater.kind, assignment.scenario, scenario.category, assignment.arm_key,
       assignment.kind AS item, assignment.position, assignment.place, chat.started_at, chat.ended_at, chat.ended_by,
       sum(turn.role = 'assistant' AND turn.finish IS NOT NULL) AS turns,
       sum(turn.underruns) AS underruns, sum(turn.underruns > 0) AS late_turns, sum(turn.late_s) AS late_s,
       sum(turn.failed) AS failures, sum(turn.role = 'assistant' AND turn.finish = 'length') AS cut,
       sum(turn.role = 'assistant' AND turn.finish IS NOT NULL AND trim(turn.content) = '') AS empty,
       sum(turn.underruns) > 0 AS unpaced, assignment.done_at IS NOT NULL AS rated
FROM chat
JOIN assignment ON assignment.id = chat.assignment
JOIN rater ON rater.id = assignment.rater
JOIN scenario ON scenario.id = assignment.scenario
JOIN turn ON turn.assignment = chat.assignment
GROUP BY chat.assignment
ORDER BY rater.id, assignment.position;

-- What the rated items showed: the assistant's texts of each chat, for the search for models that name themselves.
CREATE VIEW tidy_texts AS
SELECT rater.label AS rater, rater.kind, assignment.scenario, assignment.arm_key, assignment.kind AS item,
       assignment.mode, assignment.position, assignment.place,
       CASE assignment.mode WHEN 'live' THEN (
           SELECT coalesce(json_group_array(content), '[]') FROM (
               SELECT content FROM turn WHERE turn.assignment = assignment.id AND role = 'assistant'
               AND finish IS NOT NULL ORDER BY number)
       ) ELSE (
           SELECT json_group_array(json_extract(message.value, '$.content'))
           FROM answer, json_each(answer.messages) AS message
           WHERE answer.scenario = assignment.scenario AND answer.arm_key = assignment.arm_key
           AND json_extract(message.value, '$.role') = 'assistant'
       ) END AS texts
FROM rating
JOIN assignment ON assignment.id = rating.assignment
JOIN rater ON rater.id = assignment.rater
WHERE assignment.scenario IS NOT NULL
ORDER BY rater.id, assignment.position, assignment.place;
"""
