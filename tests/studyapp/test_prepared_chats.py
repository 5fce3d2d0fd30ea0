"""Chats that were written elsewhere as a study's answers: what is taken, what is refused, what stays."""

import json

import pytest
from owned_run import ARMS, chat_lines, make_run, make_study_file
from owned_study import SCENARIOS

from harness.cli import main
from harness.prepared_chats import read_chats
from harness.records import Answer, read_jsonl


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def changed(at, **values):
    lines = chat_lines()
    lines[at] = {**lines[at], **values}
    return lines


@pytest.fixture
def viva(tmp_path, capsys):
    study = make_study_file(tmp_path)

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in (words[0], study, "--run", tmp_path / "run", *words[1:])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_imported_chats_are_the_answers_in_the_order_of_arms_and_scenarios(tmp_path, viva):
    file = write(tmp_path / "chats.jsonl", ["", *reversed(chat_lines())])
    code, out, _ = viva("answer", "--import", file)
    assert (code, out) == (0, f"answers: {tmp_path / 'run' / 'answers'}\n")
    answers = read_jsonl(tmp_path / "run" / "answers" / "answers.jsonl", Answer)
    assert [(answer.arm, answer.scenario) for answer in answers] == [(arm, name) for arm in ARMS for name in SCENARIOS]
    assert [(m.role, m.content) for m in answers[5].messages] == [("user", "Please, s2."), ("assistant", "stu on s2")]
    assert "imported from chats.jsonl" in viva("status")[1]


def test_they_are_kept_until_they_are_removed_or_replaced(tmp_path, viva):
    file = write(tmp_path / "chats.jsonl", chat_lines())
    viva("answer", "--import", file)
    before = (tmp_path / "run" / "answers" / "answers.jsonl").stat().st_mtime_ns
    assert viva("answer", "--import", file)[0] == 0  # the same file again does nothing
    code, _, err = viva("answer")  # and no model is asked: these arms have none
    assert (code, "imported from chats.jsonl" in err) == (0, True)
    assert (tmp_path / "run" / "answers" / "answers.jsonl").stat().st_mtime_ns == before
    text = changed(0, messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}])
    code, out, _ = viva("answer", "--import", write(file, text))
    assert code == 0
    assert "arms were asked differently in 1 scenarios: s1" in out
    assert "1 answer is empty" in out
    assert (tmp_path / "run" / "answers" / "answers.jsonl").stat().st_mtime_ns != before


def test_a_study_that_has_changed_since_says_so(tmp_path, viva):
    viva("answer", "--import", write(tmp_path / "chats.jsonl", chat_lines()))
    scenarios = tmp_path / "scenarios.jsonl"
    scenarios.write_text(scenarios.read_text().replace('"goal": "g"', '"goal": "another"', 1))
    code, _, err = viva("answer")
    assert code == 1
    assert "have changed since chats.jsonl was imported" in err
    assert "import again" in err


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: not a JSON object"),
        (changed(2, arm="studentnam"), "line 3: unknown arm 'studentnam'; did you mean 'studentname'?"),
        (changed(2, scenario="zzz"), "line 3: unknown scenario 'zzz'; the study's are s1; s2; s3; s4"),
        (changed(2, arm=3), "line 3: unknown arm 3"),
        ([{"scenario": "s1"}], "line 1: no 'arm'"),
        (chat_lines() + chat_lines()[:1], "line 13: teachername has answered s1 in line 1 already"),
        (changed(4, messages=None), "line 5: no list of messages"),
        (changed(4, messages=["hi"]), "line 5: message 1 is not an object"),
        (changed(4, messages=[{"role": "user", "content": "hi"}]), "line 5: the chat does not end with an answer"),
        (changed(4, messages=[{"role": "assistant", "content": "hi"}]), "message 1 is the assistant's"),
        (changed(4, messages=[{"role": "tool", "content": "hi"}]), "message 1 has the role 'tool'"),
        (
            changed(4, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "content of message 1 is not text",
        ),
        (
            changed(4, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{}]}]),
            "message 2 calls a tool",
        ),
        (changed(4, finish="exploded"), "finish is 'exploded'"),
        (chat_lines()[:-2], "lacks 2 of 12 chats: controlname on s3; controlname on s4"),
        ([], "lacks 12 of 12 chats: teachername on s1; "),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line(tmp_path, viva, lines, says):
    code, _, err = viva("answer", "--import", write(tmp_path / "chats.jsonl", lines))
    assert code == 2
    assert says in err
    assert not (tmp_path / "run" / "answers").exists()


def test_many_bad_lines_are_counted(tmp_path, viva):
    _, _, err = viva("answer", "--import", write(tmp_path / "chats.jsonl", ["x"] * 9))
    assert "line 5: not JSON" in err
    assert "line 6" not in err
    assert "and 4 more" in err


def test_files_that_cannot_be_read_are_named(tmp_path, viva):
    assert "cannot read" in viva("answer", "--import", tmp_path / "none.jsonl")[2]
    (tmp_path / "latin.jsonl").write_bytes("ä".encode("latin-1"))
    assert "not UTF-8" in viva("answer", "--import", tmp_path / "latin.jsonl")[2]


def test_a_line_may_hold_more_and_strange_line_ends_inside(tmp_path):
    lines = chat_lines(("teachername",))
    lines[0]["messages"][1]["content"] = "one\u2028two\x85three"
    lines[1] |= {"model": "x", "usage": {"total_tokens": 3}, "finish_reason": "length"}
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "chats.jsonl").write_text(text, encoding="utf-8", newline="")
    answers = read_chats(tmp_path / "chats.jsonl", ("teachername",), SCENARIOS)
    assert answers[0].messages[0].content == "one\u2028two\x85three"
    assert [answer.finish for answer in answers] == ["stop", "length", "stop", "stop"]


def test_chats_that_were_rated_are_not_replaced(tmp_path, capsys):
    run = make_run(tmp_path)
    file = write(tmp_path / "chats.jsonl", chat_lines())
    assert main(["answer", str(run), "--import", str(file)]) == 1
    err = capsys.readouterr().err
    assert "ratings of other answers" in err
    assert "--run" in err
    assert not (run / "answers" / "answers.jsonl").exists()
