"""What a training costs, on paper: against real models, counted operations, real caches, and the tables in the docs."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, LlamaForCausalLM, MixtralConfig

from harness.config import Cache, Lora, Train
from harness.models.attention import packed
from harness.models.lora import adapt
from harness.models.students import from_layers
from harness.terms import Ce, Hidden, Kd, OnPolicy, Terms
from harness.train import plan
from harness.train.batches import Document, Row, pack, to_batch, to_document
from harness.train.cache import cache_key
from harness.train.evaluate import evaluate
from harness.train.fill import fill
from harness.train.layers import LayerTerms
from harness.train.objective import Objective, backward_row, counts, heads_of
from harness.train.plan import ArmPlan, Case, Machine, Size, Text, forward_flops, size_of, text_of, training_flops
from tests.tiny import tiny_chats, tiny_model

DOCS = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
PARAMETERS = {"Gemma-2-27B": 27.2e9, "Gemma-2-9B": 9.24e9, "Llama-3-70B": 70.6e9, "Llama-3-8B": 8.03e9}  # as published
SHAPE = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SHAPE += ("head_dim", "vocab_size")
SIGNALS = {f"top-{k}": Cache(k=k) for k in (8, 32, 64, 128)}
SIGNALS |= {"50 draws": Cache(kind="sampled", draws=50), "whole vocabulary": Cache(k="vocabulary")}
MACHINE = Machine({"float32": 1e9, "bfloat16": 4e9}, bytes_per_s=1e9, watts=10.0, watts_from="assumed")
SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 300}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS_1T = torch.arange(120)[None]
CONFIGS: dict[str, Any] = {
    "tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "untied": LlamaConfig(**SMALL, tie_word_embeddings=False, attention_bias=True),
    "gemma2": Gemma2Config(**SMALL, head_dim=24),
    "gpt2": GPT2Config(n_embd=64, n_layer=3, n_head=4, vocab_size=300, bos_token_id=0, eos_token_id=0),
}
ALL_PAIRS = Text(120, 120 * 120, 120)  # what a model does with IDS_1T whose attention looks at every pair


def train_table(terms: Terms | None = None, **changes: Any) -> Train:
    values = {"corpus": "-", "tokens": 2000, "row_tokens": 200, "evaluate_every": 4, "evaluate_chats": 4}
    return Train(terms=terms or Terms(kd=Kd()), **(values | changes))


def documents(count: int = 40) -> list[Document]:
    tokenizer = tiny_model().tokenizer
    return [to_document(tokenizer, chat, None) for chat in tiny_chats(count)]


def case(config: Train, **changes: Any) -> Case:
    """Four steps of two rows each, a student of two layers and a teacher of four."""
    rows = pack(documents(), 200)[:8]
    values: dict[str, Any] = {
        "arm": "distilled",
        "config": config,
        "precision": "float32",
        "size": size_of(tiny_model(2).model),
        "teacher": size_of(tiny_model().model),
        "vocabulary": 258,
        "steps": [rows[start : start + 2] for start in range(0, 8, 2)],
        "held_out": documents(4),
    }
    return Case(**(values | changes))


def planned(config: Train, cached: set[str] | None = None, **changes: Any) -> ArmPlan:
    return plan.plan_arm(case(config, **changes), MACHINE, set() if cached is None else cached)


def step(model: Any) -> Any:
    return model(input_ids=IDS_1T, labels=IDS_1T, use_cache=False).loss.backward()


def counted(work: Callable[[], Any]) -> float:
    """Operations of all products of matrices, as torch counts them: of fused attention on a processor none."""
    aten = torch.ops.aten
    unknown = {
        aten.addmm_: lambda this, left, right, *rest, **more: 2 * left[0] * left[1] * right[1],
        torch.ops.mkldnn._linear_pointwise: lambda given, weight, *rest, **more: 2 * math.prod(given) * weight[0],
    }
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_size_on_the_meta_device_is_that_of_the_real_model(name: str) -> None:
    real = AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.device("meta"):
        size = size_of(AutoModelForCausalLM.from_config(CONFIGS[name]))
    assert size == size_of(real)
    assert size.parameters == sum(parameter.numel() for parameter in real.parameters())
    assert size.head == size.embedding == 300 * 64
    layers = [module for name, module in real.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    linear = sum(module.weight.numel() for module in layers if module is not real.get_output_embeddings())
    assert size.matrices == linear
    assert size.tied == (real.get_output_embeddings().weight is real.get_input_embeddings().weight)


def test_experts_count_by_the_share_that_works() -> None:
    shape = {**SMALL, "num_local_experts": 8, "num_experts_per_tok": 2}
    size = size_of(AutoModelForCausalLM.from_config(MixtralConfig(**shape)))
    attention = 3 * 64 * (64 + 32 + 32 + 64)
    assert size.matrices == attention + 3 * 8 * 64 + 3 * 2 * 3 * 64 * 96  # attention, routers, two of eight experts
    assert size.parameters > attention + 3 * 8 * 3 * 64 * 96


@pytest.fixture(params=["tied", "untied", "gemma2"])
def eager(request: pytest.FixtureRequest) -> Any:
    """A model whose attention is written out, over all pairs, so that torch counts it."""
    return AutoModelForCausalLM.from_config(CONFIGS[request.param], attn_implementation="eager").train()


def test_operations_are_those_that_torch_counts(eager: Any) -> None:
    size = size_of(eager)
    with torch.no_grad():
        forward = counted(lambda: eager(input_ids=IDS_1T, use_cache=False))
    assert forward == pytest.approx(forward_flops(size, ALL_PAIRS), rel=0.01)
    assert counted(lambda: step(eager)) == pytest.approx(training_flops(size, ALL_PAIRS), rel=0.01)


def test_recomputed_layers_cost_one_more_forward_pass(eager: Any) -> None:
    size = size_of(eager)
    for layer in eager.get_decoder().layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    both = counted(lambda: step(eager))
    # torch stops at the last thing that is needed: a layer's last product may not be made again.
    assert both == pytest.approx(training_flops(size, ALL_PAIRS, checkpointing=True), rel=0.04)
    assert both > 1.1 * training_flops(size, ALL_PAIRS)


def test_frozen_matrices_cost_no_gradient_of_their_own() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), attn_implementation="eager")
    size, lora = size_of(model), Lora(rank=4)
    weights = plan.adapter_weights(model, lora)
    adapted = adapt(model, lora).train()
    assert weights == sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    # The first layer's inputs need no gradient: of three layers that is seen.
    assert counted(lambda: step(adapted)) == pytest.approx(training_flops(size, ALL_PAIRS, adapters=weights), rel=0.05)


@pytest.mark.parametrize(
    ("terms", "chunk"),
    [
        (Terms(kd=Kd()), 16),
        (Terms(kd=Kd()), 0),
        (Terms(ce=Ce()), 16),
        (Terms(kd=Kd(), ce=Ce(tokens="all")), 16),
        (Terms(kd=Kd(), hidden=Hidden()), 16),
        (Terms(hidden=Hidden()), 16),
    ],
)
def test_a_plan_counts_what_training_does(terms: Terms, chunk: int) -> None:
    """The real backward pass over the planned rows; attention is not counted by torch, so not here either."""
    teacher = tiny_model()
    student = from_layers(teacher, [0, 3])
    layers = LayerTerms(student.model, teacher.model, terms, [0, 3], 0) if terms.hidden else None
    objective = Objective(terms, vocabulary=258, chunk=chunk, layers=layers)
    one = case(train_table(terms, chunk_tokens=chunk))
    one = replace(one, size=replace(one.size, attention=0), teacher=replace(size_of(teacher.model), attention=0))
    rows = [row for step in one.steps for row in step]
    heads = heads_of(student.model, teacher.model, chunk)

    def work() -> None:
        for row in rows:
            batch = to_batch(row, objective.every_token)
            backward_row(student.model, teacher.model, batch, objective, counts(row, terms), heads)

    found = plan.operations(one, [document for row in rows for document in row.documents])
    assert counted(work) == pytest.approx(found["student"] + found["teacher"], rel=0.02)
    watched = pack(one.held_out, one.config.row_tokens)
    look = counted(lambda: evaluate(student.model, teacher.model, watched, objective, heads))
    assert 2 * look == pytest.approx(found["evaluation"], rel=0.02)  # before the first step and after the fourth
    assert (found["teacher"] > 0) == terms.need_teacher


def test_positions_attend_to_those_up_to_them() -> None:
    text = text_of([3, 5], scored=4)
    assert text == Text(8, (1 + 2 + 3) + (1 + 2 + 3 + 4 + 5), 4)
    assert text + text == text * 2


@pytest.mark.parametrize("cache", [Cache(k=8), Cache(k=8, bits=32), Cache(k="vocabulary")], ids=str)
def test_top_k_bytes_are_those_of_the_files(tmp_path: Path, cache: Cache) -> None:
    teacher, given = tiny_model(), documents(12)
    key = cache_key("teacher", "tokenizer", 1.0, cache)
    fill(tmp_path, teacher, given, cache=cache, temperature=1.0, vocabulary=258, key=key, seed=0)
    arrays = [array for path in tmp_path.rglob("*.safetensors") for array in load_file(path).values()]
    learnt = sum(len(document.scored) for document in given)
    assert sum(array.nbytes for array in arrays) == learnt * plan.cached_bytes(cache, 258)
    on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    one = case(train_table(cache=cache), steps=[[Row(tuple(given))]])
    assert plan.plan_arm(one, MACHINE, set()).cache_bytes == pytest.approx(on_disk, rel=0.02, abs=600)  # two headers


def test_draws_cost_what_was_measured() -> None:
    for corpus, (at_fifty, _) in plan.DRAWN_BYTES.items():
        assert plan.cached_bytes(Cache(kind="sampled"), 49152, corpus) == at_fifty
        few, many = (plan.cached_bytes(Cache(kind="sampled", draws=draws), 49152, corpus) for draws in (10, 200))
        assert few < at_fifty < many < 4 * at_fifty


def test_memory_is_that_of_the_tensors() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL)).train()
    size, config = size_of(model), train_table(row_tokens=256, chunk_tokens=32)
    found = plan.memory_bytes(size, size.parameters, config, size)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    place_1T = torch.arange(256)[None] % 128
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), packed(model, (128, 128)):
        out = model.get_decoder()(input_ids=place_1T, position_ids=place_1T, use_cache=False)
    activations = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)
    assert activations == pytest.approx(found["activations"], rel=0.1)
    out.last_hidden_state.sum().backward()
    optimizer = torch.optim.AdamW(model.get_decoder().parameters())
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    # The head's gradient, and so its moments, come from its own pass.
    assert found["moments"] == sum(state.nbytes for state in states) + 8 * size.head
    assert found["weights"] == found["gradients"] == found["teacher"] == sum(one.nbytes for one in model.parameters())
    narrow = plan.memory_bytes(size, 1000, config.model_copy(update={"gradient_checkpointing": True}), None)
    assert narrow["activations"] < found["activations"] / 2
    assert narrow["teacher"] == 0
    assert narrow["gradients"] == 4000


def test_a_control_costs_less_than_its_student_by_the_teacher() -> None:
    student, control = planned(train_table()), planned(train_table(Terms(ce=Ce())))
    assert student.flops["student"] == control.flops["student"]
    assert student.flops["evaluation"] == control.flops["evaluation"]
    assert student.flops.keys() - control.flops.keys() == {"teacher"}
    assert (student.steps, student.tokens, student.learnt) == (control.steps, control.tokens, control.learnt)
    assert student.seconds == pytest.approx(sum(student.flops.values()) / (plan.EFFICIENCY * 1e9))
    assert student.joules == pytest.approx(10 * student.seconds)
    assert planned(train_table(), precision="bfloat16").seconds == pytest.approx(student.seconds / 4)


def test_a_cache_is_filled_once_for_different_documents_whatever_the_epochs() -> None:
    config = train_table(cache=Cache(k=8))
    rows = pack(documents(10), 200)
    once, thrice = ([list(rows)] * times for times in (1, 3))
    cached: set[str] = set()
    first, again = planned(config, cached, steps=thrice), planned(config, cached, steps=once)
    assert first.documents == again.documents == 10
    assert first.flops["cache"] == planned(config, steps=once).flops["cache"]
    assert first.cache_bytes == planned(config, steps=once).cache_bytes > 0
    assert "teacher" not in first.flops
    assert "cache" not in again.flops
    assert again.cache_bytes == 0
    assert planned(train_table(), steps=once).flops["teacher"] == first.flops["cache"]
    layers = planned(train_table(Terms(kd=Kd(), hidden=Hidden()), cache=Cache(k=8)), cached, steps=once)
    assert 0 < layers.flops["teacher"] < first.flops["cache"]  # the layers in full, without the head


def test_on_policy_answers_are_written_learnt_and_graded() -> None:
    plain = planned(train_table())
    half, all_of_it = (planned(train_table(Terms(kd=Kd(), on_policy=OnPolicy(fraction=share)))) for share in (0.5, 1))
    assert all_of_it.flops["answers"] == 2 * half.flops["answers"] > 0
    assert all_of_it.flops["student"] > half.flops["student"] > plain.flops["student"]
    assert half.seconds > sum(half.flops.values()) / (plan.EFFICIENCY * 1e9) - half.flops["answers"] / 1e9
    assert any("max_tokens" in note for note in half.notes)
    assert not plain.notes


def test_writing_waits_for_memory_and_then_for_arithmetic() -> None:
    size = size_of(tiny_model().model)
    weights = size.matrices + size.head
    assert MACHINE.writing_seconds(size, 10, 1) == pytest.approx(10 * 4 * weights / 1e9)
    assert MACHINE.writing_seconds(size, 10, 100) == pytest.approx(10 * 200 * weights / (plan.EFFICIENCY * 1e9))


def test_an_end_by_the_clock_and_a_server_are_noted() -> None:
    short = planned(train_table(minutes=1e-6))
    assert any("minutes = 1e-06" in note for note in short.notes)
    served = planned(train_table(cache=Cache(k=8)), endpoint=True)
    here = planned(train_table(cache=Cache(k=8)))
    assert served.flops["cache"] == here.flops["cache"]
    assert served.seconds < here.seconds
    assert served.memory["teacher"] == 0 < here.memory["teacher"]


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table rows below a heading of docs/scale.md, without the tables' heads."""
    section = re.split(r"\n#+ ", DOCS.split(f"# {heading}\n", 1)[1])[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    rules = [index for index, cells in enumerate(lines) if set("".join(cells)) <= set("-|: ")]
    return [cells for index, cells in enumerate(lines) if not {index, index + 1} & set(rules)]


def assumed(name: str) -> float:
    """A number of the table of assumptions."""
    (value,) = (cells[1] for cells in rows_of("Assumptions") if cells[0] == name)
    return float(re.sub(r"[^0-9.e]", "", value.split(" ")[0]))


def published(model: str) -> Size:
    """The size of a model from its shape in the docs, as transformers builds it."""
    (cells,) = (cells for cells in rows_of("The models") if cells[0] == model)
    shape = {name: int(cell.replace(",", "")) for name, cell in zip(SHAPE, cells[1:], strict=False)}
    kind: Any = Gemma2Config if model.startswith("Gemma") else LlamaConfig
    with torch.device("meta"):
        config = kind(**shape, tie_word_embeddings=cells[8] == "yes")
        return size_of(AutoModelForCausalLM.from_config(config))


def three(value: float, unit: str = "") -> str:
    """Three digits, with a thousand's comma or the prefix of a unit of bytes."""
    power = 0
    while unit and value >= 999.5:
        value, power = value / 1000, power + 1
    shown = f"{float(f'{value:.3g}'):,.10g}"
    return f"{shown} {' kMGTPE'[power].strip()}{unit}" if unit else shown


def gpu_hours(flops: float) -> float:
    return flops / (assumed("peak of one GPU") * 1e12 * assumed("utilisation") * 3600)


def long_text(tokens: float) -> Text:
    length = assumed("tokens of a document")
    return Text(tokens, tokens * (length + 1) / 2, tokens)


def scale_rows(teacher: str, student: str, tokens: float) -> list[list[str]]:
    """The rows of the tables of one pair of models, as the formulas have them."""
    size, text = published(student), long_text(tokens)
    learn, teach = training_flops(size, text), forward_flops(published(teacher), text)
    rows = [
        [name, f"{flops / tokens:.3g}", f"{flops:.3g}", three(gpu_hours(flops))]
        for name, flops in (("student, forward and backward", learn), ("teacher, forward", teach))
    ]
    rate = tokens / (gpu_hours(learn) * 3600)
    stored: dict[str, float] = {}
    for name, cache in SIGNALS.items():
        each = plan.cached_bytes(cache, size.vocabulary)
        stored[name] = each * tokens / 1e9 * assumed("a GB stored for a month") / assumed("a GPU-hour")
        pays = int(1 + stored[name] / gpu_hours(teach)) + 1
        rows.append([name, three(each), three(each * tokens, "B"), three(each * rate, "B/s"),
                     three(1000 * each * rate, "B/s"), three(stored[name]), f"{pays}"])  # fmt: skip
    for students in (1, 2, 4, 8):
        online = students * gpu_hours(learn + teach)
        once = gpu_hours(teach) + students * gpu_hours(learn)
        rows.append([f"{students}", three(online), *(three(once + stored[name]) for name in ("top-64", "50 draws"))])
    return rows


@pytest.mark.parametrize("model", PARAMETERS)
def test_the_published_shapes_have_the_published_parameters(model: str) -> None:
    size = published(model)
    assert size.parameters == pytest.approx(PARAMETERS[model], rel=0.01)
    (cells,) = (cells for cells in rows_of("The models") if cells[0] == model)
    assert cells[9:] == [f"{size.parameters / 1e9:.2f}", three(2 * size.parameters, "B")]


@pytest.mark.parametrize("heading", ["Gemma-2-27B to 9B over 8T tokens", "Llama-3-70B to 8B over 10B tokens"])
def test_the_tables_in_the_docs_are_what_the_formulas_give(heading: str) -> None:
    teacher, _, student, _, tokens, _ = heading.split()
    count = float(tokens[:-1]) * {"B": 1e9, "T": 1e12}[tokens[-1]]
    assert rows_of(heading) == scale_rows(teacher, f"{teacher.rpartition('-')[0]}-{student}", count)


def test_the_check_against_published_hours_is_what_the_formulas_give() -> None:
    rows = rows_of("Against published hours")
    assert len(rows) == 2
    for model, tokens, hours, at_assumed, implied in rows:
        flops = training_flops(published(model), long_text(float(tokens.removesuffix("T")) * 1e12))
        spent = float(hours.replace(",", ""))
        assert at_assumed == three(gpu_hours(flops))
        assert implied == f"{assumed('utilisation') * gpu_hours(flops) / spent:.2f}"


def test_the_constants_in_the_docs_are_those_of_the_module() -> None:
    stated = {cells[0]: cells[1] for cells in rows_of("Constants")}
    (texts, power), (chats, other) = plan.DRAWN_BYTES["texts"], plan.DRAWN_BYTES["chats"]
    assert stated == {
        "efficiency": f"{plan.EFFICIENCY}",
        "bytes of draws, human text": f"{texts} (draws / 50)^{power}",
        "bytes of draws, a model's chats": f"{chats} (draws / 50)^{other}",
        "copies of the logits": f"{plan.HEAD_COPIES}",
        "memory of the process": three(plan.PROCESS_BYTES, "B"),
        "power of a busy core": f"{plan.WATTS_PER_CORE:g} W",
        "power of a GPU": f"{plan.WATTS_PER_GPU:g} W",
    }
