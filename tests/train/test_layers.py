"""Layer terms against plain formulas written out in loops, their gradients, their maps and their refusals."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from harness.config import Study
from harness.errors import ConfigError
from harness.models.attention import Rule, Seen, packed
from harness.terms import Terms
from harness.train.batches import Document, Row, to_batch
from harness.train.layers import Heads, LayerTerms, View, relations_loss, scores_loss, state_loss
from tests.models.test_attention import MODELS, make

PAGE = Path(__file__).parent.parent.parent / "docs" / "layer-terms.md"
Table = dict[str, Any]


def llama(layers: int = 2, width: int = 16, heads: int = 4, kv_heads: int = 2, head: int = 4, seed: int = 0) -> Any:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(8)
    return model.double().eval()


def documents(lengths: tuple[int, ...] = (4, 1, 6)) -> tuple[Document, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(
        Document(tuple(torch.randint(40, (length,), generator=generator).tolist()), (True,) * length)
        for length in lengths
    )


def view(model: Any, row: Row, layers: list[int]) -> View:
    batch, seen = to_batch(row), Seen()
    with packed(model, row.lengths, seen, layers):
        out = model(input_ids=batch.ids_1T, position_ids=batch.position_1T, use_cache=False, output_hidden_states=True)
    return View(tuple(state_1TD[0] for state_1TD in out.hidden_states), seen)


def measured(student: Any, teacher: Any, terms: Table, row: Row, kept: list[int] | None = None) -> dict[str, float]:
    """The terms of a row in float64, by the module."""
    module = LayerTerms(student, teacher, Terms(**terms), kept, seed=0).double()
    with torch.no_grad():
        sums = module(row, view(student, row, module.student_layers), view(teacher, row, module.teacher_layers))
    return {name: float(value) for name, value in sums.items()}


def plain_softmax(scores: list[float]) -> list[float]:
    exps = [math.exp(score - max(scores)) for score in scores]
    return [value / sum(exps) for value in exps]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def places(row: Row) -> list[tuple[int, int]]:
    """(first place of the document, place) for every token of the row."""
    found, start = [], 0
    for length in row.lengths:
        found += [(start, start + index) for index in range(length)]
        start += length
    return found


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("term", ["hidden", "embedding"])
def test_states_are_compared_by_the_plain_formula(term: str, distance: str) -> None:
    student, teacher, row = llama(2), llama(4, seed=1), Row(documents())
    ours, theirs = (view(model, row, []).hidden for model in (student, teacher))
    pairs = [(0, 0)] if term == "embedding" else [(1, 2), (2, 4)]  # in hidden_states, whose first is the embeddings
    expected = 0.0
    for first, second in pairs:
        for s, t in zip(ours[first].tolist(), theirs[second].tolist(), strict=True):
            if distance == "mse":
                loss = sum((x - y) ** 2 for x, y in zip(s, t, strict=True)) / len(s)
            else:
                loss = 1 - dot(s, t) / math.sqrt(dot(s, s) * dot(t, t))
            expected += loss / len(pairs)
    got = measured(student, teacher, {term: {"distance": distance}}, row)
    assert got == {term: pytest.approx(expected, rel=1e-9)}


def test_scores_are_compared_by_the_plain_formula() -> None:
    """With groups of queries on the student's side only, and wider heads, scaled otherwise, on the teacher's."""
    student, teacher, row = llama(2, kv_heads=1), llama(4, width=24, kv_heads=4, head=6, seed=1), Row(documents())
    expected = 0.0
    for first, second in [(0, 1), (1, 3)]:
        sides = []
        for model, layer in ((student, first), (teacher, second)):
            seen = view(model, row, [layer]).seen
            query, key = seen.query[layer].tolist(), seen.key[layer].tolist()
            group = len(query) // len(key)
            sides.append(
                lambda h, i, j, query=query, key=key, group=group: (
                    dot(query[h][i], key[h // group][j]) / math.sqrt(len(query[0][0]))
                )
            )
        for start, place in places(row):
            square = [
                (sides[0](head, place, other) - sides[1](head, place, other)) ** 2
                for head in range(4)
                for other in range(start, place + 1)
            ]
            expected += sum(square) / len(square) / 2
    got = measured(student, teacher, {"attention": {"kind": "scores"}}, row)
    assert got == {"attention": pytest.approx(expected, rel=1e-9)}


@pytest.mark.parametrize("heads", [2, None])
def test_relations_are_compared_by_the_plain_formula(heads: int | None) -> None:
    """With other heads, widths and groups on both sides; None are the student's 4 heads, keys 8 wide."""
    student, teacher, row = llama(2), llama(3, width=24, heads=6, kv_heads=3, seed=1), Row(documents())
    if heads is None:
        teacher = llama(3, width=24, heads=8, kv_heads=4, seed=1)
    ours, theirs = view(student, row, [1]).seen, view(teacher, row, [2]).seen
    count, expected = heads or 4, 0.0
    for name in ("query", "key", "value"):
        flat = [
            getattr(seen, name)[layer].transpose(0, 1).reshape(11, -1).tolist()
            for seen, layer in ((ours, 1), (theirs, 2))
        ]
        for head in range(count):
            for start, place in places(row):
                q, p = (
                    plain_softmax(
                        [
                            dot(cut(table[place], head, count), cut(table[other], head, count))
                            / math.sqrt(len(table[0]) / count)
                            for other in range(start, place + 1)
                        ]
                    )
                    for table in flat
                )
                kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
                expected += kl / count / 3
    got = measured(student, teacher, {"attention": {"kind": "relations", "heads": heads}}, row)
    assert got == {"attention": pytest.approx(expected, rel=1e-7)}


def cut(vector: list[float], head: int, count: int) -> list[float]:
    width = len(vector) // count
    return vector[head * width : (head + 1) * width]


ALL_TERMS: list[Table] = [
    {"hidden": {}, "attention": {}, "embedding": {}},
    {
        "hidden": {"distance": "cosine", "layers": "last"},
        "attention": {"kind": "relations", "layers": "even"},
        "embedding": {"distance": "cosine"},
    },
]


@pytest.mark.parametrize("terms", ALL_TERMS)
def test_identical_models_have_nothing_to_learn(terms: Table) -> None:
    assert measured(llama(3), llama(3), terms, Row(documents())) == {
        name: pytest.approx(0, abs=1e-12) for name in ("hidden", "attention", "embedding")
    }


@pytest.mark.parametrize("terms", ALL_TERMS)
def test_the_packing_does_not_matter(terms: Table) -> None:
    student, teacher, texts = llama(2), llama(4, width=24, seed=1), documents()
    whole = measured(student, teacher, terms, Row(texts))
    parts = [measured(student, teacher, terms, Row(part)) for part in (texts[:2], texts[2:])]
    assert whole == {name: pytest.approx(parts[0][name] + parts[1][name], rel=1e-6) for name in whole}
    assert all(value > 0 for value in whole.values())


def test_a_term_that_is_not_named_or_weighs_nothing_is_not_computed() -> None:
    module = LayerTerms(llama(), llama(), Terms(hidden={"weight": 0}, attention={}), None, 0)
    assert not module.hidden_wanted
    assert (module.student_layers, module.teacher_layers) == ([0, 1], [0, 1])
    module = LayerTerms(llama(), llama(), Terms(embedding={}), None, 0)
    assert module.hidden_wanted
    assert (module.student_layers, module.teacher_layers) == ([], [])
    assert measured(llama(), llama(), {"embedding": {}}, Row(documents())).keys() == {"embedding"}


def random_heads(seed: int, heads: int, kv_heads: int, width: int, rule: Rule) -> Heads:
    generator = torch.Generator().manual_seed(seed)
    counts = (heads, kv_heads, kv_heads)
    query, key, value = (
        torch.randn(count, 5, width, dtype=torch.float64, generator=generator).requires_grad_() for count in counts
    )
    return Heads(query, key, value, rule)


@pytest.mark.parametrize(
    "rule", [Rule(0.5), Rule(0.5, window=2), Rule(0.5, softcap=1.5)], ids=["plain", "window", "softcap"]
)
@pytest.mark.parametrize("kind", ["scores", "relations"])
def test_gradients_of_attention(kind: str, rule: Rule) -> None:
    student, teacher = random_heads(0, 4, 2, 3, rule), random_heads(1, 4, 4, 6, Rule(0.3))
    given = (student.query, student.key, student.value)

    def loss(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        ours = Heads(query, key, value, rule)
        return scores_loss(ours, teacher) if kind == "scores" else relations_loss(ours, teacher, 2)

    assert torch.autograd.gradcheck(loss, given)
    loss(*given).sum().backward()
    assert all(tensor.grad is None for tensor in (teacher.query, teacher.key, teacher.value))


@pytest.mark.parametrize(("window", "cap"), [((2, None), (None, 1.5)), ((None, 3), (None, None)), ((2, 3), (0.5, 2.0))])
def test_scores_are_compared_where_both_windows_reach_and_capped_as_each_side_does(window: Any, cap: Any) -> None:
    rules = [Rule(0.5, window=width, softcap=top) for width, top in zip(window, cap, strict=True)]
    sides = random_heads(0, 2, 2, 3, rules[0]), random_heads(1, 2, 1, 4, rules[1])

    def score(side: Heads, head: int, i: int, j: int) -> float:
        key = side.key[head * len(side.key) // 2]
        plain = 0.5 * dot(side.query[head, i].tolist(), key[j].tolist())
        return plain if side.rule.softcap is None else side.rule.softcap * math.tanh(plain / side.rule.softcap)

    reach = min(width for width in (*window, 5) if width is not None)
    for i, got in enumerate(scores_loss(*sides).tolist()):
        keys = range(max(0, i - reach + 1), i + 1)
        square = [(score(sides[0], h, i, j) - score(sides[1], h, i, j)) ** 2 for h in range(2) for j in keys]
        assert got == pytest.approx(sum(square) / len(square), rel=1e-9)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_gradients_of_states_and_projections(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student_TD, teacher_TE, weight_ED = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((5, 3), (5, 4), (4, 3))
    )

    def loss(student_TD: torch.Tensor, weight_ED: torch.Tensor) -> torch.Tensor:
        return state_loss(student_TD, teacher_TE, lambda state_TD: state_TD @ weight_ED.T, distance)

    assert torch.autograd.gradcheck(loss, (student_TD, weight_ED))
    loss(student_TD, weight_ED).sum().backward()
    assert teacher_TE.grad is None


def test_no_gradient_reaches_the_teacher_and_every_layer_of_the_student_gets_one() -> None:
    student, teacher, row = llama(2), llama(4, width=24, seed=1), Row(documents())
    module = LayerTerms(student, teacher, Terms(**ALL_TERMS[0]), None, 0).double()
    sums = module(row, view(student, row, module.student_layers), view(teacher, row, module.teacher_layers))
    torch.stack(list(sums.values())).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(float(parameter.grad.norm()) > 0 for parameter in module.parameters())
    without = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert without == ["lm_head.weight"]


def test_losses_are_float32_also_under_bfloat16() -> None:
    student, teacher, row = llama(2).float(), llama(4, width=24, seed=1).float(), Row(documents())
    module = LayerTerms(student, teacher, Terms(**ALL_TERMS[0]), None, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = view(student, row, module.student_layers), view(teacher, row, module.teacher_layers)
        assert ours.seen.value[0].dtype == torch.bfloat16
        inside = module(row, ours, theirs)
    outside = module(row, ours, theirs)
    for name, value in inside.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, outside[name])


def test_projections_stand_where_widths_differ_and_follow_from_the_seed_alone() -> None:
    student, teacher = llama(2), llama(4, width=24, seed=1)
    terms = Terms(hidden={}, embedding={})
    assert not list(LayerTerms(student, llama(4, seed=1), terms, None, 0).parameters())
    state = torch.get_rng_state()
    modules = [LayerTerms(student, teacher, terms, None, seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [dict(module.named_parameters()) for module in modules]
    assert [tuple(weight.shape) for weight in weights[0].values()] == [(24, 16)] * 3
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize(("ours", "theirs"), [(16, 24), (24, 16)])
def test_a_projection_starts_by_keeping_the_size_of_a_feature(ours: int, theirs: int) -> None:
    module = LayerTerms(llama(width=ours), llama(width=theirs, seed=1), Terms(embedding={}), None, 0)
    (weight_ED,) = module.parameters()
    state_ND = torch.randn(4000, ours, generator=torch.Generator().manual_seed(0))
    weight_ED = weight_ED.detach()
    mean_square = float((state_ND @ weight_ED.T).square().mean() / state_ND.square().mean())
    assert mean_square == pytest.approx(1, abs=0.03)
    narrow = weight_ED.T @ weight_ED if ours < theirs else weight_ED @ weight_ED.T
    torch.testing.assert_close(narrow, torch.eye(16) * max(1.0, theirs / ours), rtol=1e-5, atol=1e-5)


def test_trained_projections_bring_the_states_nearer_and_leave_no_trace_in_the_student(tmp_path: Path) -> None:
    student, teacher, row = llama(2), llama(4, width=24, seed=1), Row(documents())
    student.save_pretrained(tmp_path / "before")
    module = LayerTerms(student, teacher, Terms(hidden={}, embedding={}), None, 0).double()
    with torch.no_grad():
        ours, theirs = view(student, row, []), view(teacher, row, [])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        sums = module(row, ours, theirs)
        losses.append({name: float(value.detach()) for name, value in sums.items()})
        optimizer.zero_grad()
        torch.stack(list(sums.values())).sum().backward()
        optimizer.step()
    assert all(losses[-1][name] < 0.7 * losses[0][name] for name in ("hidden", "embedding"))
    assert not any("model" in name for name in module.state_dict())
    student.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_models_are_left_as_they_were() -> None:
    student, teacher = llama().train(), llama(seed=1)
    LayerTerms(student, teacher, Terms(**ALL_TERMS[0]), None, 0)
    assert student.training
    assert not teacher.training
    assert student.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_the_embeddings_each_layer_and_the_last_behind_the_norm(name: str) -> None:
    """What View says of transformers' hidden states holds in every family; and its terms can be computed."""
    model, row = make(name), Row(documents())
    module = LayerTerms(model, make(name, seed=1), Terms(**ALL_TERMS[0]), None, 0)
    with torch.no_grad():
        ours = view(model, row, module.student_layers)
        last_TD = model.get_decoder()(input_ids=torch.tensor([row.ids[-6:]]), use_cache=False).last_hidden_state[0]
    assert len(ours.hidden) == model.config.num_hidden_layers + 1
    torch.testing.assert_close(ours.hidden[-1][-6:], last_TD, rtol=1e-5, atol=1e-5)
    assert all(float(value) == 0 for value in module(row, ours, ours).values())


def test_kept_layers_are_those_that_the_student_was_cut_from() -> None:
    student, teacher, row = llama(2), llama(4, seed=1), Row(documents())
    by_rule = measured(student, teacher, {"hidden": {"layers": "kept"}}, row, kept=[0, 2])
    listed = measured(student, teacher, {"hidden": {"layers": [(0, 0), (1, 2)]}}, row)
    assert by_rule == listed
    assert by_rule != measured(student, teacher, {"hidden": {"layers": "even"}}, row)


def test_a_map_that_does_not_fit_is_refused_by_the_name_of_its_setting() -> None:
    for term in ("hidden", "attention"):
        with pytest.raises(ConfigError, match=rf"{term}.layers names layer 4 of the teacher, which has 0 to 3"):
            LayerTerms(llama(2), llama(4, seed=1), Terms(**{term: {"layers": ((0, 4),)}}), None, 0)


def test_scores_of_other_head_counts_are_refused() -> None:
    terms = Terms(attention={"kind": "scores"})
    with pytest.raises(ConfigError, match="student's layer 0 has 4, the teacher's layer 1 8") as error:
        LayerTerms(llama(2), llama(4, heads=8), terms, None, 0)
    assert 'attention.kind = "relations"' in str(error.value.hint)


@pytest.mark.parametrize(
    ("teacher", "heads", "message"),
    [
        ({"width": 24, "heads": 6, "kv_heads": 3}, None, "the queries of the teacher's layer 1, 24 wide, to 16 heads"),
        ({"width": 24, "heads": 6, "kv_heads": 3}, 8, "the keys of the teacher's layer 1, 12 wide, to 8 heads"),
        ({}, 16, "the keys of the student's layer 1, 8 wide, to 16 heads"),
    ],
)
def test_relation_heads_that_do_not_divide_the_widths_are_refused(
    teacher: dict[str, int], heads: int | None, message: str
) -> None:
    student = llama(2, heads=16, kv_heads=16) if heads is None else llama(2)
    terms = Terms(attention={"kind": "relations", "heads": heads})
    with pytest.raises(ConfigError, match=message) as error:
        LayerTerms(student, llama(2, **teacher), terms, None, 0)
    assert "set attention.heads to one of 1, 2, 4" in str(error.value.hint)


def test_the_page_s_studies_are_studies() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        study = Study.model_validate(tomllib.loads(block))
        assert all(student.train and student.train.terms.need_teacher_model for student in study.student)
