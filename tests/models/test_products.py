"""Packed layers multiply as torch's own do, and a model is as it was but for them."""

import pytest
import torch
from transformers import LlamaForCausalLM

from harness.bench.plan import Span
from harness.bench.reading import Reader
from harness.bench.rows import score
from harness.models import products
from harness.models.load import load_model
from harness.models.products import PackedLinear, lay_out, pack, packable, product
from tests.models.families import FAMILIES, family_model

needs = pytest.mark.skipif(not packable(torch.zeros(1)), reason="this torch multiplies by other means here")


def linears(model):
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


@needs
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 7, 5), (8, 192, 33), (40, 576, 192), (300, 1000, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_linear(rows, inputs, outputs, bias):
    torch.manual_seed(0)
    given, weight = torch.randn(2, rows, inputs), torch.randn(outputs, inputs)
    bias_O = torch.randn(outputs) if bias else None
    exact = torch.nn.functional.linear(given.double(), weight.double(), None if bias_O is None else bias_O.double())
    found = product(given, lay_out(weight), bias_O)
    assert (found - exact).abs().max() < 2e-6 * inputs
    theirs = torch.nn.functional.linear(given, weight, bias_O)
    assert (found - exact).abs().max() < 3 * (theirs - exact).abs().max() + 1e-6


@needs
def test_long_sums_lose_no_more_than_torchs_own():
    """oneDNN's one long sum would lose several times as much."""
    torch.manual_seed(0)
    given, weight = torch.randn(512, 4096), torch.randn(256, 4096)
    exact = given.double() @ weight.double().T
    theirs = (given @ weight.T - exact).abs().mean()
    assert (product(given, lay_out(weight)) - exact).abs().mean() < 1.5 * theirs


@needs
@pytest.mark.parametrize("dtype", products.DTYPES)
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype):
    torch.manual_seed(0)
    given, laid_out = torch.randn(256, 576).to(dtype), lay_out(torch.randn(1536, 576).to(dtype))
    whole = product(given, laid_out)
    for rows in (8, 16, 24, 64, 136):
        assert torch.equal(product(given[:rows], laid_out), whole[:rows])


@needs
@pytest.mark.parametrize("name", FAMILIES)
def test_a_packed_model_gives_the_logits_it_gave(name):
    model = family_model(name).model.float()
    ids = torch.randint(2, 250, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, parameters = model(input_ids=ids).logits, model.num_parameters()
        assert pack(model) == len(linears(model)) > 4
        assert (model(input_ids=ids).logits - wanted).abs().max() < 1e-4
    assert model.num_parameters() == parameters
    assert type(model.get_output_embeddings()) is torch.nn.Linear


@needs
def test_what_is_packed_is_in_memory_once_and_cannot_be_misread():
    model = family_model("llama").model.float()
    before = model.model.layers[0].mlp.up_proj
    kept = torch.as_tensor(before.weight.detach().clone())
    pack(model)
    packed = model.model.layers[0].mlp.up_proj
    assert packed.weight.shape == kept.shape
    assert packed.weight.untyped_storage().nbytes() == 4
    assert packed.weight.isnan().all()
    assert torch.equal(products._plain(packed).weight, kept)


@needs
def test_a_model_that_does_more_with_its_layers_gets_them_back():
    class Other(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * self.model.layers[0].mlp.up_proj.weight.sum()
            return out

    plain = family_model("llama").model.float()
    model = Other(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    ids = torch.arange(3, 9)[None]
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits
        assert pack(model) == 0
        assert not linears(model)
        assert torch.equal(model(input_ids=ids).logits, wanted)


@needs
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_scores_are_those_of_the_plain_model(name, tmp_path):
    tiny = family_model(name)
    tiny.model.float().save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    spans = [Span.ending([*range(5, 60), k], [7] * 20) for k in range(4)]
    plain = score(Reader(load_model(tmp_path).model), spans)
    packed = load_model(tmp_path, only_read=True).model
    assert linears(packed)
    for (ours, best), (theirs, theirs_best) in zip(score(Reader(packed), spans), plain, strict=True):
        assert abs(ours - theirs).max() < 1e-4
        assert (best == theirs_best).all()


@needs
def test_layers_packed_in_bfloat16_do_what_autocast_does():
    plain, model = (family_model("llama").model.float() for _ in range(2))
    ids = torch.randint(2, 250, (2, 40), generator=torch.Generator().manual_seed(0))
    assert pack(model, torch.bfloat16)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            wanted, found = plain(input_ids=ids).logits, model(input_ids=ids).logits
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
        assert model(input_ids=ids).logits.dtype == torch.float32


@needs
@pytest.mark.parametrize("bias", [True, False])
def test_products_in_training_have_the_gradients_of_linear(bias):
    torch.manual_seed(0)
    parts = [torch.randn(3, 17, 40), torch.randn(24, 40), *([torch.randn(24)] if bias else [])]
    ours, theirs = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    pull = torch.randn(3, 17, 24)
    (found := products.linear(*ours)).backward(pull)
    (wanted := torch.nn.functional.linear(*theirs)).backward(pull)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-4)
    assert type(found.grad_fn).__name__ == "_LinearBackward"


@needs
def test_layers_in_training_are_quick_and_plain_again_behind_it():
    model = family_model("llama").model.float().train()
    ids = torch.randint(2, 250, (2, 40), generator=torch.Generator().manual_seed(0))

    def gradients():
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    wanted, names = gradients(), list(model.state_dict())
    with products.quick(model):
        assert type(model.model.layers[0].mlp.up_proj) is products.TrainedLinear
        assert list(model.state_dict()) == names
        for name, found in gradients().items():
            torch.testing.assert_close(found, wanted[name], rtol=1e-3, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert model.model.layers[0].mlp.up_proj(torch.zeros(1, 32)).dtype == torch.bfloat16
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
