"""Arms that are made from other arms of their study: `start = "arm:NAME"` goes on from one, `teacher` learns from one.

An arm is trained after all that it needs. Names are checked, and circles found, when the study file is read.
"""

import difflib
import re
from collections.abc import Iterable

from harness.config import ARM, Student, Study, Teacher
from harness.errors import ConfigError


def start_arm(student: Student) -> str | None:
    """The arm that a student goes on from; None for one that starts elsewhere."""
    return student.start.removeprefix(ARM) if student.source is None and student.start.startswith(ARM) else None


def needs(student: Student) -> tuple[str, ...]:
    """Names of the arms that have to be there before this student is trained, beside the study's teacher."""
    return tuple(dict.fromkeys(name for name in (start_arm(student), student.teacher) if name is not None))


def teacher_of(study: Study, student: Student) -> Teacher:
    """Who teaches a student: the study's teacher, or another arm as a teacher of its own, with its licence."""
    if student.teacher is None or student.teacher == study.teacher.name:
        return study.teacher
    arm = _students(study)[student.teacher]
    licence = arm.licence if arm.source else teacher_of(study, arm).licence
    return Teacher(name=arm.name, source=arm.source or ARM + arm.name, sha256=arm.sha256, licence=licence)


def teachers_behind(study: Study, student: Student) -> list[Teacher]:
    """All whose words are in a student's weights: its own teacher, and those of the arms that it goes on from."""
    found = [teacher_of(study, student)]
    before = _students(study).get(start_arm(student) or "")
    if before is not None and before.source is None:
        found += [one for one in teachers_behind(study, before) if one not in found]
    return found


def in_order(study: Study, only: Iterable[str] = ()) -> list[Student]:
    """The students of a study, each after those that it needs; with `only`, those named and what they need.

    Raises ConfigError for a circle of arms that need each other.
    """
    students = _students(study)
    placed: dict[str, Student] = {}

    def place(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circle = " -> ".join((*way[way.index(name) :], name))
            raise ConfigError(
                f"these arms need each other, so that none can be trained first: {circle}",
                hint="start one of them from the teacher, or from random weights",
            )
        if name in placed or name not in students:  # the teacher is there before all students
            return
        for other in needs(students[name]):
            place(other, (*way, name))
        placed[name] = students[name]

    for name in only or students:
        place(name, ())
    return list(placed.values())


def check_lineage(study: Study, text: str, path: object) -> None:
    """Raise ConfigError, with the line in the study file's `text`, for arms that are not there or need each other."""
    for student in study.student:
        for key, name in (("start", start_arm(student)), ("teacher", student.teacher)):
            others = [arm for arm in study.arms if arm != student.name]
            if name is None or name in others:
                continue
            near = difflib.get_close_matches(name, others, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            why = "is the student itself" if name == student.name else "is no arm of the study"
            raise ConfigError(
                f"{path}, {_line(text, key, name)}student {student.name!r}: {key} names {name!r}, which {why}{meant}",
                hint=f"its other arms: {', '.join(others)}",
            )
    in_order(study)


def _line(text: str, key: str, name: str) -> str:
    """'line 7, ' for the line that gives `key` this name; nothing where seeds have changed it."""
    wanted = re.compile(rf"\b{key}\s*=\s*[\"']({ARM})?{re.escape(name)}[\"']")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if wanted.search(line)]
    return f"line {lines[0]}, " if lines else ""


def _students(study: Study) -> dict[str, Student]:
    return {student.name: student for student in study.student}
