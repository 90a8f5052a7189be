"""What layers hand on: the paths are those that the model takes."""

from hybridgen.drawing.folding import fold
from hybridgen.drawing.paths import Path, layer_paths
from hybridgen.drawing.plan import lanes, plan, row_paths
from hybridgen.spec import ModelSpec
from tests.drawing.conftest import ATTENTION, stack


def found(spec: ModelSpec) -> list[tuple[str, int, int]]:
    return [tuple(path) for path in layer_paths(spec.backbone)]


def test_scores_go_from_attention_to_attention() -> None:
    spec = stack("m a m a f a", residual_attn=True)
    assert found(spec) == [("scores", 1, 3), ("scores", 3, 5)]


def test_a_chain_of_scores_ends_after_so_many_layers() -> None:
    spec = stack("a*5", residual_attn={"every": 2})
    assert found(spec) == [("scores", 0, 1), ("scores", 2, 3)]


def test_scores_stop_at_other_mixers_when_they_do_not_cross_them_and_pass_mlps() -> None:
    spec = stack("a f a m a", residual_attn={"cross_block": False})
    assert found(spec) == [("scores", 0, 2)]


def test_values_of_the_first_attention_go_to_all_others() -> None:
    spec = stack("m a a m a", value_residual="half")
    assert found(spec) == [("values", 1, 2), ("values", 1, 4)]


def selective(*sources: str) -> ModelSpec:
    blocks = {name: {"mixer": {**ATTENTION, "selective": True, "selection_from": name}} for name in set(sources)}
    names = {"self": "s", "accumulate": "c", "previous": "p", "guide": "g"}
    blocks = {names[name]: block for name, block in blocks.items()}
    backbone = {"d_model": 64, "blocks": blocks, "pattern": [names[name] for name in sources]}
    return ModelSpec.model_validate({"backbone": backbone})


def test_a_guided_layer_takes_the_nearest_choice() -> None:
    assert found(selective("self", "self", "guide", "guide")) == [("choices", 1, 2), ("choices", 1, 3)]


def test_accumulated_choices_come_along_a_chain() -> None:
    """The third takes those of both before it; the fourth takes them and the third's through the third."""
    assert found(selective("self", "self", "accumulate", "accumulate")) == [
        ("choices", 1, 2),
        ("choices", 0, 2),
        ("choices", 2, 3),
    ]


def test_the_previous_choices_are_those_of_all_before() -> None:
    assert found(selective("self", "previous", "self")) == [("choices", 0, 1)]


def test_lanes_of_a_column_do_not_touch() -> None:
    spec = stack("(m a a)*3 a m a", residual_attn=True, value_residual="half")
    drawn = plan(fold([spec.backbone.layers.index(layer) for layer in spec.backbone.layers]), lambda _: 20.0, 6.0, 60.0)
    assert len(drawn.heights) > 1
    taken = lanes(
        drawn,
        row_paths(drawn.rows, layer_paths(spec.backbone), 1),
        lambda row, _, into: row.y + (5.0 if into else 15.0),
    )
    for one in taken:
        for other in taken:
            if one is not other and (one.column, one.number) == (other.column, other.number):
                assert one.bottom < other.top or other.bottom < one.top
    assert {lane.kind for lane in taken} == {"scores", "values"}


def test_a_path_between_repeats_is_a_loop() -> None:
    spec = stack("a*6", residual_attn=True)
    drawn = plan(fold([0] * 6), lambda _: 20.0, 6.0, 1000.0)
    assert row_paths(drawn.rows, layer_paths(spec.backbone), 1) == [("scores", 0, (0,))]
    assert Path("scores", 0, 1) in layer_paths(spec.backbone)
