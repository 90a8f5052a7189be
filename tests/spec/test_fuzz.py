import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.errors import SpecError
from hybridgen.spec import ModelSpec
from hybridgen.spec.document import BACKBONE_KEYS
from tests.spec.documents import documents
from tests.spec.test_sugar import MAMBA2ATTN

JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["mamba2", "attention", "all", "3::4", "m*3", "lm", "type", 10**400, -1, 0, "8", "${x}", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*BACKBONE_KEYS, "type", "x", ""]), inner, max_size=3),
    ),
    max_leaves=5,
)


def spots(value, path=()):
    """Every path of a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from spots(child, (*path, key))


@st.composite
def spoiled(draw):
    """Documents in which up to three values or keys are junk."""
    document = copy.deepcopy(draw(st.one_of(documents(), st.just(MAMBA2ATTN))))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(spots(document))[1:]))
        parent = document
        for part in path[:-1]:
            parent = parent[part]
        if isinstance(parent, dict) and draw(st.booleans()):
            parent[draw(st.one_of(st.text(max_size=5), st.sampled_from(BACKBONE_KEYS)))] = draw(JUNK)
        else:
            parent[path[-1]] = draw(JUNK)
    return document


@given(spoiled())
@settings(max_examples=300, deadline=None)
def test_any_document_is_a_spec_or_a_worded_error(document):
    try:
        spec = ModelSpec.model_validate(document)
    except SpecError as error:
        faults = error.faults
    else:
        assert ModelSpec.model_validate(spec.document()) == spec
        return
    assert faults
    assert all(fault.message and len(str(fault)) < 2000 for fault in faults)
