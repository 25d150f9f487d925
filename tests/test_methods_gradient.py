"""methods/gradient.py: parity with the package grad-cam, and hand computations.

grad-cam resizes its map to the network's input and min-maxes it; so do we here. Its other
differences are named where they are met.
"""

import naive
import numpy as np
import pytest
import pytorch_grad_cam as others
import torch
from conftest import tiny_clip
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch.nn import functional as F

import gscam_lib as gs
from gscam_lib.methods import gradient

PROMPTS = ("an apple on a table", "two dogs")
NAMES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "fullgrad": "FullGrad",
    "scorecam": "ScoreCAM",
    "ablationcam": "AblationCAM",
}


def theirs(name, trace, prompt):
    layer = trace.layer
    options = {} if name == "FullGrad" else {"target_layers": [layer.module]}
    if layer.grid is not None:
        options["reshape_transform"] = layer.to_map
    cam = getattr(others, name)(
        naive.Scalar(trace.model, prompt), **{"target_layers": [], **options}
    )
    with cam:
        return cam(trace.pixels[None], [ClassifierOutputTarget(0)])[0]


def ours(method, trace, prompt):
    small = gs.METHODS[method](trace, prompt)
    size = (trace.model.input_size,) * 2
    unit = torch.as_tensor(naive.minmax(small))[None, None]
    return naive.minmax(F.interpolate(unit, size, mode="bilinear")[0, 0])


@pytest.fixture(scope="module")
def traces(photo):
    """One trace for each tower; early layers where a method needs a pass for every channel."""
    built = {}

    def get(tower, layer=None):
        if (tower, layer) not in built:
            built[tower, layer] = tiny_clip(tower).trace(photo, layer=layer)
        return built[tower, layer]

    return get


@pytest.mark.parametrize("tower", ["resnet", "vit"])
@pytest.mark.parametrize("method", ["gradcam", "xgradcam", "hirescam", "layercam"])
def test_parity_with_grad_cam(traces, tower, method):
    trace = traces(tower, "layer3" if tower == "resnet" else None)
    for prompt in PROMPTS:
        expected = theirs(NAMES[method], trace, prompt)
        np.testing.assert_allclose(ours(method, trace, prompt), expected, atol=1e-4)


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_parity_of_grad_cam_plus_plus(photo, tower):
    """Where gradients are large. grad-cam adds 1e-6 below, which hides small ones by design."""
    model = tiny_clip(tower)
    model.network.logit_scale.data += np.log(1e4)
    trace = model.trace(photo, layer="layer3" if tower == "resnet" else None)
    for prompt in PROMPTS:
        expected = theirs(NAMES["gradcam++"], trace, prompt)
        np.testing.assert_allclose(ours("gradcam++", trace, prompt), expected, atol=1e-4)


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_grad_cam_plus_plus_by_hand(traces, tower):
    """The equation with nothing added, in double precision; gradients however small count."""
    trace = traces(tower)
    A, G = trace.activations.double().numpy(), trace.gradients(PROMPTS[0]).double().numpy()
    weights = []
    for a, g in zip(A, G, strict=True):
        above, below = g**2, 2 * g**2 + a.sum() * g**3
        alpha = np.divide(above, below, out=np.zeros_like(g), where=g != 0)
        weights.append((alpha * np.maximum(g, 0)).sum())
    expected = np.maximum(np.tensordot(weights, A, 1), 0)
    found = gs.METHODS["gradcam++"](trace, PROMPTS[0])
    np.testing.assert_allclose(found / expected.max(), expected / expected.max(), atol=1e-5)


def test_parity_of_fullgrad(traces):
    """On a plain ResNet; grad-cam passes over timm's batch norms, which carry an activation."""
    trace = traces("resnet")
    for prompt in PROMPTS:
        expected = theirs("FullGrad", trace, prompt)
        found = naive.minmax(gs.METHODS["fullgrad"](trace, prompt))
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fullgrad_finds_the_biases_of_timms_batch_norms(traces):
    """The gradient summed over a site's map is the gradient by the bias itself."""
    trace = traces("timm-cnn")
    assert gs.METHODS["fullgrad"](trace, PROMPTS[0]).max() > 0
    sites, _ = trace.keep("biases", None)
    _, outputs, embedding = trace.keep("fullgrad", None)
    kinds = torch.nn.Conv2d | torch.nn.BatchNorm2d
    modules = [m for m in trace.model.network.visual.modules() if isinstance(m, kinds)]
    biased = [m for m in modules if m.bias is not None]
    assert len(sites) == len(biased)
    score = trace.model.scores(embedding, PROMPTS[0])[0]
    at_site = torch.autograd.grad(score, outputs, retain_graph=True)
    at_bias = torch.autograd.grad(score, [m.bias for m in biased], retain_graph=True)
    for site, bias in zip(at_site, at_bias, strict=True):
        torch.testing.assert_close(site.sum((0, 2, 3)), bias, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("tower", ["resnet", "vit"])
@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
def test_parity_of_the_eigen_methods(traces, tower, method):
    """Differs by design in sign: grad-cam keeps the arbitrary one of numpy's SVD.

    Ours makes high maps high; so the two projections agree up to sign, before the ReLU.
    """
    trace = traces(tower, "layer3" if tower == "resnet" else None)
    A, G = trace.activations, trace.gradients(PROMPTS[0])
    maps = A if method == "eigencam" else A * G
    raw = get_2d_projection(maps.numpy()[None])[0]
    sign = np.sign((raw * (maps - maps.mean((1, 2), keepdim=True)).sum(0).numpy()).sum())
    expected = np.maximum(sign * raw, 0)
    found = gs.METHODS[method](trace, PROMPTS[0]).numpy()
    np.testing.assert_allclose(found / expected.max(), expected / expected.max(), atol=1e-4)


def test_the_sign_of_a_component_is_no_matter_of_rounding():
    """After a layer norm all places have the same channel sum, up to the last bits."""
    generator = torch.Generator().manual_seed(0)
    blob = torch.zeros(6, 6)
    blob[1:3, 1:3] = 1
    maps = torch.randn(64, 1, 1, generator=generator) * blob
    maps = maps + 0.1 * torch.randn(64, 6, 6, generator=generator)
    maps = (maps - maps.mean(0)) / maps.std(0)
    found = gradient._first_component(maps)
    assert found[blob > 0].min() > found[blob == 0].max()  # the smaller part is high
    for _ in range(8):  # other orders add to other last bits
        order = torch.randperm(64, generator=generator)
        noise = 1 + 1e-6 * torch.randn(64, 6, 6, generator=generator)
        again = gradient._first_component((maps * noise)[order])
        torch.testing.assert_close(again, found, atol=1e-3, rtol=0)
    flipped = gradient._first_component(-maps)
    torch.testing.assert_close(flipped, found, atol=1e-4, rtol=0)


def test_a_component_is_high_where_positive_maps_are_high():
    generator = torch.Generator().manual_seed(0)
    large = torch.ones(6, 6)
    large[0, 0] = 0  # the larger part is high here, for there the channels are
    maps = torch.rand(16, 1, 1, generator=generator) * large
    found = gradient._first_component(maps)
    assert found[0, 0] < found[1:, 1:].min()


@pytest.mark.parametrize(("tower", "layer"), [("resnet", "layer1"), ("vit", None)])
def test_parity_of_scorecam(traces, tower, layer):
    trace = traces(tower, layer)
    expected = theirs("ScoreCAM", trace, PROMPTS[0])
    np.testing.assert_allclose(ours("scorecam", trace, PROMPTS[0]), expected, atol=1e-4)


def test_parity_of_ablationcam(traces):
    """On maps whose minimum is 0, for a positive score.

    Differs by design elsewhere: grad-cam replaces a channel by −10⁷ where activations go below 0
    (its own deviation from the paper's zero), and divides by the score, whose sign would turn the
    map round.
    """
    trace = traces("resnet", "layer2")
    assert trace.activations.min() == 0
    for prompt in PROMPTS:
        assert trace.logit(prompt) > 0
        expected = theirs("AblationCAM", trace, prompt)
        np.testing.assert_allclose(ours("ablationcam", trace, prompt), expected, atol=1e-4)


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_formulas_by_hand(traces, tower):
    trace = traces(tower)
    A, G = trace.activations.numpy(), trace.gradients(PROMPTS[0]).numpy()
    C, h, w = A.shape
    hires, layer = np.zeros((h, w)), np.zeros((h, w))
    for c in range(C):
        for i in range(h):
            for j in range(w):
                hires[i, j] += A[c, i, j] * G[c, i, j]
                layer[i, j] += A[c, i, j] * max(G[c, i, j], 0)
    for method, expected in {"hirescam": hires, "layercam": layer}.items():
        found = gs.METHODS[method](trace, PROMPTS[0])
        np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_one_graph_serves_several_prompts(traces, monkeypatch):
    trace = traces("resnet")
    gs.METHODS["fullgrad"](trace, PROMPTS[0])
    monkeypatch.setattr(type(trace.model), "encode_pixels", None)  # no pass any more
    for method in ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "fullgrad"):
        assert gs.METHODS[method](trace, "never asked before").isfinite().all()


# ---------------------------------------------------------------- the ViT done right


def test_the_naive_layer_of_a_vit_has_no_gradient_and_is_refused(traces):
    """After the last attention only the class token reaches the embedding."""
    trace = traces("vit", "transformer.resblocks.1")
    full = trace._output_gradient(PROMPTS[0])
    assert full[0, 0].abs().max() > 0
    assert full[0, 1:].abs().max() == 0
    for method in ("gradcam", "hirescam", "gscorecam", "groupcam"):
        with pytest.raises(ValueError, match=r"exactly zero.*class_token"):
            gs.METHODS[method](trace, PROMPTS[0])


@pytest.mark.parametrize("tower", ["vit", "timm-vit"])
def test_the_library_does_not_fall_into_it(traces, tower):
    for trace in (traces(tower), traces(tower, -1)):
        assert trace.gradients(PROMPTS[0]).flatten(1).abs().amax(1).min() > 0
        assert not gs.heatmap(trace, PROMPTS[0], "gradcam").flat


def test_the_released_scripts_ranking_on_vits(traces):
    """The `paper` variant: the class token's gradient, from an embedding computed by hand."""
    model = traces("vit").model
    trace = model.trace(traces("vit").photo, layer=model.vit.blocks[-1].module)
    assert trace.layer.name == "transformer.resblocks.1"
    token = trace._output.detach()[0, :1].clone().requires_grad_(True)
    features = model.network.visual.ln_post(token) @ model.network.visual.proj
    score = model.scores(F.normalize(features, dim=-1), PROMPTS[0])[0]
    (expected,) = torch.autograd.grad(score, token)
    torch.testing.assert_close(trace.class_token_gradient(PROMPTS[0]), expected[0])
    best = trace.activations[expected[0].argmax()]
    found = gs.METHODS["gscorecam"](
        trace, PROMPTS[0], k=1, ranking="class_token", weighting="softmax_chosen"
    )
    torch.testing.assert_close(found, best.relu())


def test_towers_without_class_token_have_no_such_gradient(traces):
    with pytest.raises(ValueError, match="no class token at layer 'layer4'"):
        gs.METHODS["gscorecam"](traces("resnet"), PROMPTS[0], ranking="class_token")
