"""The grammar of model names, and what a wrong one is answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsim.errors import UserError
from hwsim.model.sources import SHORT_NAMES, ModelSource, parse_source

WANTED = (
    "vit_b vit_s vit_t deit_t deit_s deit_b swin_t swin_s swin_b resnet18 resnet50 mobilenet_v2 regnetx_600mf "
    "regnetx_3.2gf mnasnet bert_base minilm_l6 opt_125m opt_350m llama_7b"
)


def test_every_promised_short_name_is_there_and_resolves_to_itself():
    assert set(WANTED.split()) == set(SHORT_NAMES)
    for name, full in SHORT_NAMES.items():
        assert parse_source(name).resolved == full
        assert parse_source(full).resolved == full


@pytest.mark.parametrize(
    ("text", "source", "name", "factory", "arguments"),
    [
        ("timm:mobilenetv2_100[pad_type=same]", "timm", "mobilenetv2_100", None, {"pad_type": "same"}),
        ("vit_t[depth=2, img_size=64]", "timm", SHORT_NAMES["vit_t"][5:], None, {"depth": 2, "img_size": 64}),
        ("hf:a/b[tie=True,x=null,y=1e-6]", "hf", "a/b", None, {"tie": True, "x": None, "y": 1e-6}),
        ("hf:some/config.json", "hf", "some/config.json", None, {}),
        ("dir/net.pt2", "pt2", "dir/net.pt2", None, {}),
        ("dir/net.py:build[depth=20]", "factory", "dir/net.py", "build", {"depth": 20}),
    ],
)
def test_grammar(text, source, name, factory, arguments):
    found = parse_source(text)
    assert (found.source, found.name, found.factory, found.arguments) == (source, name, factory, arguments)


names = st.text(st.characters(categories=["Ll", "Nd"], include_characters="_./-"), min_size=1)
keys = st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True)
texts = st.from_regex(r"[a-z][a-z_]*", fullmatch=True).filter(
    lambda word: word not in ("true", "false", "null")
)
values = st.one_of(
    st.integers(), st.booleans(), st.none(), texts, st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.sampled_from(["timm", "hf"]), names, st.dictionaries(keys, values, max_size=3))
def test_resolved_names_parse_to_themselves(source, name, arguments):
    asked = ModelSource("", source, name, None, arguments)
    found = parse_source(asked.resolved)
    assert found.resolved == asked.resolved
    assert found.arguments == arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.onnx", ".onnx is not read"),
        ("net.pth", "name the model and give the file with --weights"),
        ("hf:", "e.g. hf:google-bert/bert-base-uncased"),
        ("vit_bb", "did you mean vit_b"),
        ("resnet_18", "did you mean resnet18"),
        ("zzzzzz", "see `hwsim model list`"),
        ("ghostnet_100", "write timm:ghostnet_100"),
        ("timm:", "name missing"),
        ("net.py", "net.py:build"),
        ("vit_b[depth]", "'depth' is not KEY=VALUE"),
        ("net.pt2[a=1]", "fixed"),
        ("", "unknown model"),
    ],
)
def test_mistakes_get_one_helpful_line(text, words):
    with pytest.raises(UserError) as caught:
        parse_source(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
