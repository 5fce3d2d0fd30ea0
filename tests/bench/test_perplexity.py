"""The suite `words` against formulas written out in float64, and against lm-eval."""

import bz2
import math

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.bench.human_text import film_reviews
from harness.bench.perplexity import human_text, ratio, summarise, teacher_text
from harness.errors import ConfigError, SourceError
from harness.models.chat_format import encode_chat
from harness.models.load import LoadedModel
from harness.records import Chat, Message

TEXTS = ["The capital of France is Paris.", "an eraser", "Water boils at one hundred degrees. " * 6, "7 °C"]
DOCUMENTS = ["The spider waited quietly.\n\nIt was  hungry. " * n for n in (1, 5, 40)]


@pytest.fixture(scope="module")
def chats():
    return [
        Chat(id=f"c{k}", kind="fact", messages=(_m("user", "What is the capital?"), _m("assistant", text)))
        for k, text in enumerate(TEXTS)
    ] + [
        Chat(
            id="two",
            kind="talk",
            messages=(_m("user", "Hi"), _m("assistant", "Hello."), _m("user", "More"), _m("assistant", "a web")),
        )
    ]


def _m(role, content):
    return Message(role=role, content=content)


def log_softmax(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()


def test_teacher_text_equals_a_plain_loop(model, other_model, tokenizer, chats):
    student, teacher = LoadedModel(model, tokenizer), LoadedModel(other_model, tokenizer)
    samples = teacher_text(student, teacher, chats, "Be kind.")
    assert [one["id"] for one in samples] == [chat.id for chat in chats]
    for chat, one in zip(chats, samples, strict=True):
        ids, target = encode_chat(tokenizer, chat.messages, "Be kind.")
        q, p = log_softmax(model, ids), log_softmax(other_model, ids)
        loglikelihood = kl = same = tokens = 0
        for t in range(1, len(ids)):
            if target[t]:
                loglikelihood += q[t - 1, ids[t]]
                kl += sum(math.exp(a) * (a - b) for a, b in zip(p[t - 1], q[t - 1], strict=True))
                same += p[t - 1].argmax() == q[t - 1].argmax()
                tokens += 1
        assert one["tokens"] == tokens
        assert one["loglikelihood"] == pytest.approx(loglikelihood, abs=1e-3)
        assert one["kl"] == pytest.approx(kl, abs=1e-3)
        assert one["top1"] == same
        assert one["truncated"] == 0


def test_an_answer_cut_at_its_limit_is_scored_without_an_end_that_nobody_wrote(model, tokenizer, chats):
    cut = [chat.model_copy(update={"finish": "length"}) for chat in chats]
    loaded = LoadedModel(model, tokenizer)
    whole, shorter = (teacher_text(loaded, None, given, None) for given in (chats, cut))
    assert [a["tokens"] - b["tokens"] for a, b in zip(whole, shorter, strict=True)] == [1] * len(chats)


def test_a_model_has_no_divergence_from_itself(model, tokenizer, chats):
    student = LoadedModel(model, tokenizer)
    for teacher in (student, LoadedModel(model, tokenizer)):  # without and with the second pass
        scores = {score.metric: score for score in summarise(teacher_text(student, teacher, chats, None))}
        assert scores["teacher_text_kl"].value == pytest.approx(0, abs=1e-9)
        assert scores["teacher_text_top1"].value == 1


def test_without_a_comparable_teacher_there_is_perplexity_only(model, tokenizer, chats):
    scores = summarise(teacher_text(LoadedModel(model, tokenizer), None, chats, None))
    assert [score.metric for score in scores] == ["teacher_text_perplexity"]


def test_a_chat_longer_than_the_window_keeps_its_end(model, tokenizer):
    chat = Chat(id="long", kind="fact", messages=(_m("user", "x " * 300), _m("assistant", "an eraser")))
    (one,) = teacher_text(LoadedModel(model, tokenizer), None, [chat], None)
    ids, target = encode_chat(tokenizer, chat.messages, None)
    assert one["truncated"] == len(ids) - 257
    logp = log_softmax(model, ids[-257:-1])
    expected = sum(logp[k, ids[k - 256]] for k in range(256) if target[k - 256])
    assert one["loglikelihood"] == pytest.approx(expected, abs=1e-3)
    assert one["tokens"] == sum(target)


def test_human_text_equals_lm_eval(model, tokenizer):
    samples = human_text(LoadedModel(model, tokenizer), DOCUMENTS, window=50, stride=50)
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4, max_length=50)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in DOCUMENTS]
    theirs = hflm.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose([one["loglikelihood"] for one in samples], theirs, rtol=1e-6, atol=1e-3)
    assert [one["bytes"] for one in samples] == [len(text.encode()) for text in DOCUMENTS]
    assert [one["tokens"] for one in samples] == [len(tokenizer.encode(text)) for text in DOCUMENTS]
    scores = {score.metric: score for score in summarise(samples)}
    total, words = sum(theirs), sum(one["words"] for one in samples)
    byte_count = sum(one["bytes"] for one in samples)
    assert scores["human_text_bits_per_byte"].value == pytest.approx(-total / byte_count / math.log(2), rel=1e-6)
    assert scores["human_text_word_perplexity"].value == pytest.approx(math.exp(-total / words), rel=1e-5)


def test_a_stride_gives_later_tokens_more_context(model, tokenizer):
    student = LoadedModel(model, tokenizer)
    (one,) = human_text(student, DOCUMENTS[2:], window=50, stride=10)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(DOCUMENTS[2])]
    assert one["tokens"] == len(ids) - 1
    end = 60  # the second window predicts tokens 50..59 and sees the 50 tokens before the last of them
    logp = log_softmax(model, ids[end - 50 : end])
    expected = sum(logp[k - (end - 50), ids[k + 1]] for k in range(50, end))
    first = human_text(student, [tokenizer.decode(ids[1:51])], window=50, stride=10)[0]["loglikelihood"]
    both = human_text(student, [tokenizer.decode(ids[1:61])], window=50, stride=10)[0]["loglikelihood"]
    assert both - first == pytest.approx(expected, abs=1e-3)


def test_the_standard_error_is_that_of_redrawn_documents():
    rng = np.random.default_rng(3)
    sizes = rng.integers(20, 80, 60).astype(float)
    sums = 3 * sizes + rng.normal(0, 20, 60)
    mean, stderr = ratio(sums, sizes)
    assert mean == pytest.approx(sums.sum() / sizes.sum())
    drawn = rng.integers(0, 60, (4000, 60))
    assert stderr == pytest.approx((sums[drawn].sum(1) / sizes[drawn].sum(1)).std(), rel=0.06)
    assert ratio([6.0], [3.0]) == (2.0, None)


def test_nothing_to_score_is_an_error(model, tokenizer):
    empty = human_text(LoadedModel(model, tokenizer), [""])
    assert empty[0]["tokens"] == 0
    with pytest.raises(ConfigError, match="no text to score"):
        summarise(empty)


def test_film_reviews_are_whole_lines_in_a_fixed_order(tmp_path):
    path = tmp_path / "reviews.csv.bz2"
    lines = ["category,filename,text,movie_name"]
    for film in ("a", "b", "c"):
        lines += [f'plot,x,"A plot.",{film}', *(f'fresh,x,"Good &amp; {film}{k}.",{film}' for k in range(4))]
    lines.append('rotten,x,"Too short.",d')
    path.write_bytes(bz2.compress("\n".join(lines).encode()))
    found = film_reviews(path, films=2, characters=25)
    assert found == film_reviews(path, films=3, characters=25)[:2]
    assert all(text.startswith("Good & ") and text.count("\n") == 1 for text in found)
    path.write_bytes(b"not a bz2 file")
    with pytest.raises(SourceError, match="is not the film review file"):
        film_reviews(path, 1, 1)
