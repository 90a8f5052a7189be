"""Points: the same models as each composed on its own, all faults at once, equal models merged."""

import os
import subprocess
import sys
import time

import pytest

from hybridgen import SpecError, load_spec
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.sweep import compose_points, merge_equal, read_sweep, spec_id
from hybridgen.sweep.identity import canonical_json
from tests.cli.conftest import TINY

FILES = {
    "main.yaml": "defaults: [base, backbone/attn@backbone.attn: full, _self_]\nname: m-${backbone.d_model}\n",
    "base.yaml": "backbone: {d_model: 64, n_layer: 4, attn_layer_idx: all}\n",
    "backbone/attn/full.yaml": "num_heads: 4\n",
    "backbone/attn/window.yaml": "num_heads: 4\nwindow: 128\n",
    "backbone/attn/wrong.yaml": "num_heads: 4\nwindw: 128\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def points_of(path, *overrides):
    return compose_points(read_sweep(path, overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ['backbone.attn_layer_idx="3::4","7::8",none', "backbone.ssm.d_state=64,128"],
        ["backbone={n_layer:2,attn_layer_idx:[1]},{n_layer:4,attn_layer_idx:[1,3]}", "name=a,b"],
        ["+backbone.overrides=[{layers:[0],ssm:{d_state:8}}],[]", "~backbone.attn_mlp_d_intermediate", "head=lm,none"],
        ["input.vocab_size=1000,2000", "+backbone.norm.eps=1e-5,${backbone.ssm.nothing}"],
    ],
)
def test_points_are_what_full_composition_makes_of_them(overrides):
    # The last set holds a reference that cannot be parsed bare; quoted, it is a fault of some points alone.
    overrides = [text.replace("${backbone.ssm.nothing}", "'${backbone.ssm.nothing}'") for text in overrides]
    sweep = read_sweep(TINY, overrides)
    found = compose_points(sweep)
    assert found.count == len(found.valid) + sum(len(one.numbers) for one in found.invalid)
    for point in found.valid:
        assert point.spec == load_spec(TINY, point.overrides)
    for one in found.invalid:
        assert one.faults


def test_config_groups_are_composed_as_by_themselves(folder):
    found = points_of("main.yaml", "backbone/attn@backbone.attn=full,window", "backbone.d_model=64,128")
    assert [point.spec.name for point in found.valid] == ["m-64", "m-128"] * 2
    assert [point.spec.backbone.layers[0].mixer.window for point in found.valid] == [None, None, 128, 128]
    assert all(point.spec == load_spec("main.yaml", point.overrides) for point in found.valid)


def test_glob_chooses_files_and_their_faults_have_places(folder):
    found = points_of("main.yaml", "backbone/attn@backbone.attn=glob(*)", "backbone.d_model=64,128")
    assert [point.number for point in found.valid] == [1, 2, 3, 4]
    (wrong,) = found.invalid
    assert wrong.numbers == (5, 6)
    assert str(wrong.faults[0]).startswith("backbone/attn/wrong.yaml:2:1: backbone.attn.windw: ")


def test_a_group_is_composed_once_for_each_choice(folder, monkeypatch):
    import hybridgen.spec.compose as module

    calls = []
    composing = module.compose
    monkeypatch.setattr(module, "compose", lambda *args: calls.append(1) or composing(*args))
    points_of("main.yaml", "backbone/attn@backbone.attn=full,window", "backbone.d_model=range(64,1024,64)")
    assert len(calls) == 2


def test_one_point_leaves_nothing_behind_in_the_next():
    merged = ["+backbone.attn={window:64},{num_heads:8}", "+backbone.ssm={d_conv:3},{d_conv:4}"]
    for point in points_of(TINY, *merged).valid:
        assert point.spec == load_spec(TINY, point.overrides)


def test_the_last_value_changes_first_as_in_hydra():
    found = points_of(TINY, "backbone.ssm.d_state=16,32", "backbone.n_layer=4", "name=a,b")
    assert [tuple(point.values.values()) for point in found.valid] == [
        ("16", "a"),
        ("16", "b"),
        ("32", "a"),
        ("32", "b"),
    ]
    assert found.valid[2].text() == "point 3 (backbone.ssm.d_state=32 name=a)"
    assert found.valid[2].overrides == ("backbone.ssm.d_state=32", "backbone.n_layer=4", "name=a")


def test_points_with_the_same_faults_stand_together():
    found = points_of(TINY, "backbone.attn.num_heads=4,5,2", "backbone.ssm.d_state=0,16,32")
    assert [point.number for point in found.valid] == [2, 3, 8, 9]
    assert [one.numbers for one in found.invalid] == [(1, 7), (4,), (5, 6)]
    assert [len(one.faults) for one in found.invalid] == [1, 3, 2]


def test_a_wrong_key_is_one_fault_for_all_its_values():
    (wrong,) = points_of(TINY, "backbone.ssm.d_stat=64,128").invalid
    assert wrong.numbers == (1, 2)
    assert "closest is 'd_state'" in str(wrong.faults[0])


@pytest.mark.parametrize("overrides", [["name=a"], []])
def test_a_sweep_of_one_point(overrides):
    (point,) = points_of(TINY, *overrides).valid
    assert point.values == {}


def test_too_many_points_are_refused_before_any_is_made():
    with pytest.raises(HybridgenError, match=r"300 \* 300 = 90,000: narrow it"):
        points_of(TINY, "backbone.ssm.d_state=range(1,301)", "backbone.d_model=range(1,301)")


def test_a_document_beyond_repair_is_reported_once(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("backbone: [", encoding="utf-8")
    with pytest.raises(SpecError) as error:
        read_sweep(path, ["a=1,2"])
    assert len(error.value.faults) == 1


def test_equal_models_are_merged_and_the_name_does_not_count():
    found = points_of(TINY, 'backbone.attn_layer_idx="3::4",[3,7],all', "name=a,b", "backbone.ssm.d_state=32,64")
    merged = merge_equal(found.valid)
    assert [(point.number, point.merged) for point in merged] == [(1, (3, 5, 7)), (2, (4, 6, 8)), (9, (10, 11, 12))]


def test_identity_is_the_whole_model_but_its_name():
    spec = load_spec(TINY)
    assert (
        spec_id(spec) == spec_id(load_spec(TINY, ["name=other"])) == spec_id(ModelSpec.model_validate(spec.document()))
    )
    assert len(spec_id(spec)) == 12
    assert set(spec_id(spec)) <= set("0123456789abcdef")
    assert spec_id(spec) != spec_id(load_spec(TINY, ["+backbone.init.initializer_range=0.03"]))
    whole, point = (load_spec(TINY, [f"+backbone.ssm.expand={text}"]) for text in ("2", "2.0"))
    assert canonical_json(whole) == canonical_json(point)
    assert '"name"' not in canonical_json(spec)


def test_identity_is_the_same_in_every_run():
    program = (
        "import sys; from hybridgen.sweep import compose_points, read_sweep\n"
        "print(*(point.id for point in compose_points(read_sweep(sys.argv[1], sys.argv[2:])).valid))"
    )
    ids = [point.id for point in points_of(TINY, "backbone.ssm.d_state=32,64").valid]
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program, TINY, "backbone.ssm.d_state=32,64"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert result.stdout.split() == ids


def test_at_least_twenty_points_a_second():
    started = time.process_time()
    found = points_of(TINY, "backbone.ssm.d_state=range(1,101)", "backbone.attn_layer_idx=none,[1],[2]")
    assert len(found.valid) / (time.process_time() - started) > 20
