"""methods/: against a naive implementation, and the limit cases."""

import inspect
import math
import re
from functools import partial

import naive
import numpy as np
import open_clip
import pytest
import torch
from conftest import TEXT, TOWERS, VISION, tiny_clip
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gscam_lib as gs
from gscam_lib.heatmaps import to_photo
from gscam_lib.methods import TOWERS as TOWER_KINDS
from gscam_lib.methods import methods_table, read_method, title
from gscam_lib.methods.method import check_options

PROMPT = "an apple on a table"
TARGETS = [
    PROMPT,
    gs.Target(["a photo of a dog", "a drawing of a dog"]),
    gs.Target(PROMPT, against=("a dog", "snow")),
    gs.Target(vector=torch.arange(-12.0, 12.0)),
]
FAST = {"sscam": {"samples": 1}, "rise": {"masks": 8}, "groupcam": {"groups": 2}}


@pytest.fixture(scope="module", params=[t for t in TOWERS if t != "timm-vit"])
def twin(request):
    """Towers for which tests/naive.py has its own forward pass (timm's ViT has the same form)."""
    return tiny_clip(request.param)


@pytest.fixture(scope="module")
def early(model, photo):
    """One trace for each tower, at an early layer of few channels."""
    return model.trace(photo, layer=0)


@pytest.mark.parametrize("k", [1, 5])
def test_gscorecam_equals_the_naive_one(twin, photo, k):
    expected = naive.gscorecam(twin, photo, PROMPT, k)
    found = gs.METHODS["gscorecam"](twin.trace(photo), PROMPT, k=k)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_scores_of_masked_copies_equal_the_naive_ones(twin, photo):
    pixels, activations, gradients = naive.activations_and_gradients(twin, photo, PROMPT)
    trace = twin.trace(photo)
    np.testing.assert_allclose(trace.activations, activations, atol=1e-4)
    np.testing.assert_allclose(trace.gradients(PROMPT), gradients, atol=1e-5)
    scores = twin.scores(trace.masked_embeddings([0, 4]), PROMPT)
    expected = [naive.masked_score(twin, pixels, activations[c], PROMPT) for c in (0, 4)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_gradcam_equals_a_loop(twin, photo):
    _, activations, gradients = naive.activations_and_gradients(twin, photo, PROMPT)
    expected = np.zeros(activations.shape[1:])
    for activation, gradient in zip(activations, gradients, strict=True):
        expected += gradient.mean() * activation
    found = gs.METHODS["gradcam"](twin.trace(photo), PROMPT)
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_all_channels_give_scorecam(model, early):
    channels = len(early.activations)
    every = gs.METHODS["gscorecam"](early, PROMPT, k=channels)
    torch.testing.assert_close(every, gs.METHODS["scorecam"](early, PROMPT))


def test_channels_outside_the_top_k_are_not_looked_at(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    asked = []
    embeddings = trace.masked_embeddings
    monkeypatch.setattr(
        trace, "masked_embeddings", lambda c: asked.extend(c.tolist()) or embeddings(c)
    )
    gs.METHODS["gscorecam"](trace, PROMPT, k=5)
    order = trace.gradients(PROMPT).mean((1, 2)).argsort(descending=True)
    assert asked == order[:5].tolist()


POISONS = {
    "weights": lambda n: next(p for p in n.visual.parameters() if p.ndim > 1),
    "text": lambda n: n.text_projection,
    "scale": lambda n: n.logit_scale,
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", POISONS)
@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_weights_that_are_not_finite_give_an_error_never_a_map(photo, tower, where, value):
    """With every method; only Grad-CAM and its like did so once."""
    model = tiny_clip(tower)
    with torch.no_grad():
        POISONS[where](model.network).flatten()[:1].fill_(value)
    for name, entry in gs.METHODS.items():
        if tower in entry.towers:
            with pytest.raises(ValueError, match=r"NaN|finite|is nan|is inf"):
                gs.heatmap(model.trace(photo, layer=0), PROMPT, name, **FAST.get(name, {}))


def test_one_score_of_nan_is_no_zero(resnet, photo, monkeypatch):
    trace = resnet.trace(photo)
    embeddings = trace.masked_embeddings(trace.ranking(PROMPT)[:3]).clone()
    embeddings[1] = float("nan")
    monkeypatch.setattr(trace, "masked_embeddings", lambda c: embeddings)
    with pytest.raises(ValueError, match=r"NaN|finite"):
        gs.heatmap(trace, PROMPT, "gscorecam", k=3)


@pytest.mark.parametrize("k", [0, -1, 257, 2.5, "3", True, float("nan")])
def test_bad_k_is_refused(resnet, photo, k):
    trace = resnet.trace(photo)
    for ask in (
        lambda: gs.METHODS["gscorecam"](trace, PROMPT, k=k),
        lambda: gs.heatmap(trace, PROMPT, k=k),
        lambda: gs.several(trace, [PROMPT], k=k),
        lambda: gs.sweep(trace, PROMPT, [3, k]),
        lambda: gs.stream(trace, PROMPT, k),
        lambda: gs.heatmap(trace, PROMPT, f"gscorecam:k={k!r}"),
        lambda: read_method("gradcam", k) and gs.heatmap(trace, PROMPT, k=k),
    ):
        with pytest.raises(ValueError, match=r"Got (k=|the method).*whole number.* from 1|k=nan"):
            ask()


def test_k_may_be_any_integer_type(resnet, photo):
    trace = resnet.trace(photo)
    for k in (np.int64(4), torch.tensor(4)):
        torch.testing.assert_close(
            gs.METHODS["gscorecam"](trace, PROMPT, k=k), gs.METHODS["gscorecam"](trace, PROMPT, k=4)
        )


@pytest.mark.parametrize("method", gs.METHODS)
def test_every_method_gives_a_map_for_every_target(early, method):
    """A map of the layer or of the network's input; only where the tower suits the method."""
    entry = gs.METHODS[method]
    if early.model.tower not in entry.towers:
        with pytest.raises(ValueError, match=f"'{method}' is defined for .*Methods for it: .*grad"):
            entry(early, PROMPT)
        return
    sizes = {tuple(early.activations.shape[1:]), (early.model.input_size,) * 2}
    if entry.family == "dense":
        sizes = {(3, 3), (4, 4), (10, 10)}  # of the last stage, wherever the trace was taken
    for target in TARGETS:
        found = entry(early, target, **FAST.get(method, {}))
        assert tuple(found.shape) in sizes
        assert found.min() >= 0
        assert torch.isfinite(found).all()
        assert not found.requires_grad


@pytest.mark.parametrize("method", [n for n, m in gs.METHODS.items() if not m.uses_prompt])
def test_methods_without_prompt_give_the_same_map_for_all(early, method):
    entry = gs.METHODS[method]
    if early.model.tower in entry.towers:
        torch.testing.assert_close(entry(early, "a dog"), entry(early, "snow"))


def test_entries_say_what_they_are():
    for name, entry in gs.METHODS.items():
        assert name == entry.name
        assert entry.__doc__ == entry.function.__doc__
        assert entry.title
        assert entry.family in {
            "score", "gradient", "perturbation", "attention", "dense", "control"
        }  # fmt: skip
        assert set(entry.towers) <= set(TOWER_KINDS)
        assert 2017 <= entry.year <= 2026
        # what a cost is a formula of
        assert re.fullmatch(r"[0-9CkNGL +/=,]+( and C from the layer on)?", entry.forward), name
        assert entry.backward in {"0", "1", "L"}


def test_costs_are_what_a_run_takes(resnet, photo, monkeypatch):
    """Forward passes, counted in photos, of the methods whose formula has k, N, G or C."""
    passes = []
    encode = gs.Model.encode_pixels
    monkeypatch.setattr(
        gs.Model, "encode_pixels", lambda s, x, **how: passes.append(len(x)) or encode(s, x)
    )
    for method, options, expected in (
        ("gscorecam", {"k": 5}, 1 + 5),
        ("scorecam", {}, 1 + 32),
        ("sscam", {"samples": 2}, 1 + 2 * 32),
        ("groupcam", {"groups": 7}, 2 + 7),
        ("rise", {"masks": 20}, 1 + 20),
        ("ablationcam", {}, 1 + 32 / 8),
        ("gradcam", {}, 1),
        ("fullgrad", {}, 2),
    ):
        passes.clear()
        trace = resnet.trace(photo, layer="layer1")
        monkeypatch.setattr(trace, "_constant", lambda channels: [])
        gs.METHODS[method](trace, PROMPT, **options)
        assert sum(passes) == expected, method


def test_options_are_checked(early):
    entry = gs.METHODS["gscorecam"]
    assert entry.options == {
        "k": None, "ranking": "mean", "weighting": "softmax", "seed": 0,
        "budget": None, "tolerance": None,
    }  # fmt: skip
    assert "k" in inspect.signature(entry).parameters
    for ask in (gs.METHODS["rise"], partial(gs.heatmap, method="rise")):
        with pytest.raises(
            ValueError,
            match=r"Got k=3 for 'rise', which takes no k\. Its options: masks, a whole .* seed, ",
        ):
            ask(early, PROMPT, k=3)
    with pytest.raises(ValueError, match=r"Got sed=1 .* takes no sed.*Methods that take sed: none"):
        gs.heatmap(early, PROMPT, "gscorecam", sed=1)
    with pytest.raises(ValueError, match=r"Got mask=9, p=2, seed=-1 for 'rise'"):  # all at once
        gs.heatmap(early, PROMPT, "rise", mask=9, p=2, seed=-1)


@pytest.mark.parametrize(
    "text",
    [
        "rise:masks=0", "rise:masks=8.0", "rise:masks=True", "rise:masks='8'", "rise:masks=None",
        "rise:cells=-1", "rise:p=0", "rise:p=1.1", "rise:p='.1'", "rise:p=True", "rise:seed=-1",
        "rise:seed=1.5", "sscam:samples=1.5", "sscam:sigma=-1", "sscam:sigma=None",
        "groupcam:groups=-1", "groupcam:grouping=colour", "groupcam:blur=0", "groupcam:blur=1e400",
        "gscorecam:k=2.7", "gscorecam:k='5'", "gscorecam:k=True", "gscorecam:k=five",
        "gscorecam:ranking=best", "gscorecam:ranking=1", "gscorecam:weighting=None",
        "hilacam:blocks=0", "legrad:blocks=1.5", "gem:template=a {}", "grad_eclip:single_head=1",
        "surgery:ensemble=yes", "gradcam:k=3", "gradcam:sigma=1", "center:k=1",
    ],
)  # fmt: skip
def test_options_of_another_kind_are_refused_up_front(text):
    """One rule for all, from the signatures; no model is needed to find out."""
    name, given = text.split(":")
    option, _, value = given.partition("=")
    with pytest.raises(ValueError, match=rf"Got {option}=.* for '{name}'.*Its options: \w+"):
        read_method(text)
    assert value


def test_methods_as_people_write_them():
    assert read_method(" sobel ") == ("sobel", {})
    assert read_method("gscorecam: ranking = variance :k=50") == (
        "gscorecam", {"ranking": "variance", "k": 50}
    )  # fmt: skip
    assert read_method("gscorecam", 7) == ("gscorecam", {"k": 7})
    assert read_method("gscorecam:k=50", 7) == ("gscorecam", {"k": 50})
    assert read_method("gscorecam:k=None", 7) == ("gscorecam", {"k": 7})
    assert read_method("gradcam", 7) == ("gradcam", {})
    assert read_method("groupcam:blur=None") == ("groupcam", {"blur": None})
    for bad in ("gscorecam:k", "gscorecam:k=", "gscorecam:=3", "gscorecam:", "rise:p=.1:p=.2"):
        with pytest.raises(ValueError, match=r"Got the method .*each once"):
            read_method(bad)
    for bad in ("gscore", "", None, ":k=3"):
        with pytest.raises(ValueError, match=r"No method .* There are: gscorecam"):
            read_method(bad)
    assert title(" legrad:as_released ") == "LeGrad, as released"
    assert title("rise:p=0.2") == "RISE, p = 0.2"
    assert title("another") == "another"


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.binary(max_size=3), st.lists(st.integers(), max_size=2),
    st.just(np.float32(0.5)), st.just(np.bool_(True)),
    st.just(torch.tensor(True)), st.just(torch.tensor(2)), st.just(np.array([1, 2])),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(gs.METHODS)), st.data())
def test_any_value_of_an_option_is_taken_or_refused_by_name(name, data):
    option = data.draw(st.sampled_from([*gs.METHODS[name].options, "nothing"]))
    value = data.draw(VALUES)
    try:
        taken = check_options(name, {option: value})[option]
    except ValueError as error:
        assert f"Got {option}=" in str(error)  # noqa: PT017
        return
    default = gs.METHODS[name].options[option]
    if isinstance(value, bool):
        assert isinstance(default, bool)
    if isinstance(taken, int | float) and not isinstance(taken, bool):
        assert math.isfinite(taken)
        assert taken == value
        assert taken >= (0 if option in ("seed", "sigma") else 1e-300)
    if isinstance(taken, str):
        assert isinstance(default, str)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}:{}={}".format,
            st.sampled_from(sorted(gs.METHODS)),
            st.sampled_from(["k", "p", "blocks", "seed", "masks", "template", "as_released"]),
            st.text("0123456789.-+e_'\"()[]{}TrueNon,: \\", max_size=8),
        ),
    )
)
@example("gscorecam:k={[]:1}")
@example("gscorecam:k=" + "(" * 5000)
@example("gscorecam:k=" + "9" * 5000)
@example("gscorecam:k=\x00")
def test_any_text_is_a_method_or_an_error_of_ours(text):
    try:
        name, options = read_method(text)
    except ValueError as error:
        assert str(error).startswith(("Got ", "No method", "'"))  # noqa: PT017
        return
    assert check_options(name, options) == options


def test_presets_of_the_originals_defaults():
    assert read_method("hilacam:as_released") == ("hilacam", {"blocks": 1})
    assert read_method("legrad:as_released:blocks=5") == ("legrad", {"blocks": 5})
    assert read_method("gscorecam:as_released", 9) == ("gscorecam", {"k": 9})
    with pytest.raises(ValueError, match=r"'sobel' has no options of an original.*hilacam"):
        read_method("sobel:as_released")
    for name, entry in gs.METHODS.items():
        if entry.as_released is not None:  # they are options that the method takes
            assert read_method(f"{name}:as_released") == (name, dict(entry.as_released))


def test_options_reach_the_method_through_heatmap(early):
    found = gs.heatmap(early, PROMPT, k=4, ranking="random", seed=2, weighting="uniform")
    small = gs.METHODS["gscorecam"](
        early, PROMPT, k=4, ranking="random", seed=2, weighting="uniform"
    )
    expected, flat = to_photo(small.numpy(), early)
    assert found.flat == flat
    np.testing.assert_allclose(found.values, expected)
    assert found.k == 4


def test_the_table_has_a_row_for_each_method():
    rows = methods_table().splitlines()
    assert len(rows) == 2 + len(gs.METHODS)
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert all(f"`{name}`" in row for name, row in zip(gs.METHODS, rows[2:], strict=True))


# ---------------------------------------------------------------- layers


def test_a_layer_by_name_index_or_module(model, photo):
    by_index = model.trace(photo, layer=-2)
    name = by_index.layer.name
    module = dict(model.network.visual.named_modules())[name]
    for layer in (name, module):
        again = model.trace(photo, layer=layer)
        assert again.layer.name == name
        torch.testing.assert_close(again.activations, by_index.activations)
    assert model.trace(photo, layer=-1).layer.name == model.layer.name


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (9, r"4 layers to count, from -4 to 3: layer1, layer2"),
        (-5, "from -4 to 3"),
        (torch.nn.ReLU(), "ReLU is not a part of this image tower"),
        ("layer5", "No layer 'layer5'.*layer4"),
        ("", "No layer ''"),
    ],
)
def test_layers_that_do_not_exist(resnet, photo, layer, message):
    with pytest.raises(ValueError, match=message):
        resnet.trace(photo, layer=layer)


def test_several_layers_are_averaged_at_the_finest(resnet, photo):
    traces = [resnet.trace(photo, layer=layer) for layer in ("layer4", "layer2", "layer3")]
    heat = gs.heatmap(traces, PROMPT, "gradcam++")
    assert heat.resolution == (12, 12)
    total = np.zeros((12, 12))
    for trace in traces:
        unit = naive.minmax(gs.METHODS["gradcam++"](trace, PROMPT))
        large = torch.nn.functional.interpolate(
            torch.tensor(unit)[None, None], (12, 12), mode="bilinear"
        )
        total += naive.minmax(large[0, 0]) / 3
    expected, _ = to_photo(total.astype(np.float32), traces[0])
    np.testing.assert_allclose(heat.values, expected, atol=1e-5)
    one = gs.heatmap(traces[:1], PROMPT)
    np.testing.assert_allclose(one.values, gs.heatmap(traces[0], PROMPT).values)
    assert one.resolution == (3, 3)
    with pytest.raises(ValueError, match="Got no trace"):
        gs.heatmap([], PROMPT)


def test_k_is_the_share_of_the_layer_that_was_traced(resnet, photo):
    trace = resnet.trace(photo, layer="layer3")
    assert trace.default_k == round(300 / 3072 * 128)
    assert gs.heatmap(trace, PROMPT).k == trace.default_k


def test_kinds_of_tower(model):
    kinds = {"resnet": "resnet", "vit": "vit", "timm-cnn": "cnn", "timm-vit": "vit"}
    assert model.tower == kinds[model.name.removeprefix("tiny-")]


def test_a_vit_that_pools_its_patches_is_of_another_kind(photo):
    vision = {**VISION["vit"], "pool_type": "avg"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT).eval()
    trace = gs.Model(network, open_clip.SimpleTokenizer(), name="pooled").trace(photo)
    assert trace.model.tower == "other-vit"
    assert gs.METHODS["gscorecam"](trace, PROMPT, k=2).isfinite().all()
    for method in ("hilacam", "gem", "maskclip", "surgery"):
        with pytest.raises(ValueError, match=r"pooled is a transformer .* Methods for it: gsc"):
            gs.METHODS[method](trace, PROMPT)


def test_center_is_symmetric_and_highest_in_the_middle(trace):
    found = gs.METHODS["center"](trace, PROMPT)
    torch.testing.assert_close(found, found.flip(0))
    torch.testing.assert_close(found, found.flip(1))
    h, w = found.shape
    assert found.max() == found[h // 2, w // 2]


def test_random_rn50x16_takes_the_same_path(photo):
    model = gs.load_model("RN50x16/random")
    heat = gs.heatmap(model.trace(photo), "an apple", k=8)
    assert (model.input_size, model.channels, model.default_k) == (384, 3072, 300)
    assert heat.values.shape == (40, 70)
    assert heat.values.max() == 1
