"""Networks for segmentation: torchvision's names and outputs, one tensor in eval mode, and errors in one sentence."""

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.segmentation import fcn_resnet50

from core.checkpoints.subset import resolve_subset
from core.runtime.errors import UserError
from tasks.networks.build import build_network, require_family
from tasks.networks.segmenters import build_segmenter
from tasks.objectives.classification import Classification
from tasks.objectives.segmentation import Segmentation
from tasks.scoring.frozen_prefix import SplitNetwork, split_network

SMALL = {"name": "fcn_small", "options": {"channels": [4, 4, 8, 8]}}
LOADER = "torchvision.models._api.load_state_dict_from_url"


@pytest.fixture
def small():
    torch.manual_seed(0)
    return build_segmenter(**SMALL, num_classes=5, channels=3)


@pytest.fixture(scope="module")
def published():
    """Return torchvision's network with random weights."""
    torch.manual_seed(0)
    return fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()


def test_a_network_returns_a_dictionary_in_training_and_one_tensor_in_eval_mode(small):
    images = torch.randn(2, 3, 36, 52)
    assert set(small(images)) == {"out"} and small(images)["out"].shape == (2, 5, 36, 52)
    assert small.eval()(images).shape == (2, 5, 36, 52)
    with_aux = build_segmenter("fcn_small", num_classes=5, channels=3, options={**SMALL["options"], "aux_loss": True})
    assert {name: logits.shape for name, logits in with_aux(images).items()} == dict.fromkeys(
        ("out", "aux"), (2, 5, 36, 52)
    )


@pytest.mark.parametrize("aux_loss", [False, True])
def test_every_parameter_gets_a_gradient(aux_loss):
    model = build_segmenter("fcn_small", num_classes=5, channels=3, options={**SMALL["options"], "aux_loss": aux_loss})
    Segmentation(5).compute_loss(model, torch.randn(4, 3, 32, 32), torch.randint(5, (4, 32, 32))).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_small_network_is_small_and_the_channels_can_be_chosen():
    model = build_segmenter("fcn_small", num_classes=11, channels=3)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.eval().backbone(torch.zeros(1, 3, 64, 64))["out"].shape == (1, 96, 16, 16)


def test_fcn_resnet50_has_the_names_and_the_outputs_of_torchvision(published):
    model = build_segmenter("fcn_resnet50", num_classes=21, channels=3).eval()
    model.load_state_dict(published.state_dict())
    images = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        assert torch.equal(model(images), published(images)["out"])


@pytest.mark.parametrize("count, layers", [(1, ["classifier.1"]), (2, ["backbone.layer4.2.bn3", "classifier.1"])])
def test_the_last_normalization_layer_is_that_of_the_head_that_predicts(count, layers):
    with torch.device("meta"):
        model = build_segmenter("fcn_resnet50", num_classes=21, channels=3)
    assert model.aux_classifier is not None
    names = resolve_subset(model, "last_norms", count).names
    assert list(names) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


@pytest.mark.parametrize("any_size", [False, True])
def test_a_split_network_has_the_same_logits_also_for_other_sizes(small, any_size):
    small.eval()
    names = resolve_subset(small, "last_norms", 2).names
    split = split_network(small, names, torch.zeros(2, 3, 32, 32), any_size=any_size)
    assert isinstance(split, SplitNetwork)
    parameters = {name: torch.randn_like(small.get_parameter(name)) for name in names}
    for size in ((32, 32), (33, 46)) if any_size else ((32, 32),):
        images = torch.randn(2, 3, *size)
        expected = torch.func.functional_call(small, parameters, images)
        assert torch.equal(split.run(split.cache(images), parameters), expected)


def test_pretrained_weights_are_loaded_and_the_last_layers_are_new_for_other_classes(published, monkeypatch):
    urls = []
    monkeypatch.setattr(LOADER, lambda url, **options: urls.append((url, options)) or published.state_dict())
    loaded = build_segmenter("fcn_resnet50", num_classes=21, channels=3, pretrained=True).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in published.state_dict().items())
    other = build_segmenter("fcn_resnet50", num_classes=11, channels=3, pretrained=True).state_dict()
    differing = {name for name, value in published.state_dict().items() if not torch.equal(other[name], value)}
    assert differing == {f"{head}.4.{part}" for head in ("classifier", "aux_classifier") for part in ("weight", "bias")}
    assert urls[0][0].endswith("fcn_resnet50_coco-1167a1af.pth") and urls[0][1]["weights_only"] is True


def test_the_backbone_may_be_pretrained(monkeypatch):
    torch.manual_seed(1)
    classifier = resnet50().state_dict()
    monkeypatch.setattr(LOADER, lambda url, **options: classifier)
    options = {"weights_backbone": "IMAGENET1K_V1"}
    backbone = build_segmenter("fcn_resnet50", num_classes=11, channels=3, options=options).backbone.state_dict()
    assert len(backbone) == len(classifier) - 2
    assert all(torch.equal(value, classifier[name]) for name, value in backbone.items())


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"pretrained": True}, r"task\.model\.pretrained=true: .*fcn_resnet50_coco.*no route.*pretrained=false"),
        (
            {"options": {"weights_backbone": "IMAGENET1K_V2"}},
            r"weights_backbone=IMAGENET1K_V2: .*resnet50-.*no route.*weights_backbone=null",
        ),
        ({"options": {"weights_backbone": "IMAGENET1K"}}, r"weights_backbone=IMAGENET1K is unknown.*IMAGENET1K_V1"),
        ({"options": {"no_such": 1}}, r"task\.model\.options=\{'no_such': 1\} do not fit fcn_resnet50 .*no_such"),
        ({"channels": 1}, r"fcn_resnet50 needs images of 3 channels, not 1"),
        ({"name": "fcn_small", "pretrained": True}, r"pretrained=true: .*fcn_small.*pretrained=false"),
        ({"name": "fcn_small", "options": {"layers": [1]}}, r"options=\{'layers': \[1\]\} do not fit fcn_small"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, told, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(LOADER, fail)
    with pytest.raises(UserError, match=told) as error:
        build_segmenter(**{"name": "fcn_resnet50", "num_classes": 21, "channels": 3, **arguments})
    assert "\n" not in str(error.value)


def test_an_unknown_name_suggests_networks_for_segmentation():
    with pytest.raises(UserError, match=r"task\.model\.name=fcn_resnet5 .*fcn_resnet50"):
        build_network("fcn_resnet5", num_classes=11, channels=3, image_size=64)


@pytest.mark.parametrize(
    "name, objective, told",
    [
        ("resnet18", Segmentation(5), r"=resnet18 is a network for classification.*=x is for segmentation.*fcn_small"),
        ("fcn_small", Classification(5), r"=fcn_small is a network for segmentation.*=x is for classification.*resnet"),
    ],
)
def test_a_network_for_another_task_is_refused(name, objective, told):
    with pytest.raises(UserError, match=told):
        require_family(name, objective, "x")


@pytest.mark.parametrize(
    "name, objective",
    [("resnet18", Classification(5)), ("fcn_small", Segmentation(5)), ("my_code:net", Segmentation(5))],
)
def test_a_network_for_the_task_or_of_the_user_is_accepted(name, objective):
    require_family(name, objective, "x")
