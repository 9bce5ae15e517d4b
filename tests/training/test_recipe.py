"""Recipes: what is read, what is refused, what is kept."""

import pytest
from pydantic import ValidationError

from spm_runtime.errors import ParameterError
from spm_training.recipe import (
    AtomidNetworkOptions,
    AtomsNetworkOptions,
    CosineOptions,
    Recipe,
    StepOptions,
    load_recipe,
    read_recipe,
    recipe_names,
    to_toml,
)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("smoke", [False, True])
def test_shipped_recipes_are_valid_and_survive_the_run_folder(name, smoke, tmp_path):
    recipe = load_recipe(name, smoke=smoke)
    assert recipe.name == name
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe), encoding="utf-8")
    assert read_recipe(file) == recipe


def test_a_recipe_may_come_from_a_file_and_its_text_may_hold_anything(tmp_path):
    recipe = load_recipe("atoms").model_copy(update={"title": 'A "title" with \\ and µ\nand a line'})
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(str(file)) == recipe


def test_overrides_are_typed():
    overrides = [
        "data.batch=32",
        "optimiser.lr=2e-4",
        "training.precision=float32",
        'simulator.families=["square", "hexagonal"]',
        "early_stopping.min_delta=1",
        "title=two words",
    ]
    recipe = load_recipe("atoms", overrides=overrides)
    assert recipe.data.batch == 32
    assert recipe.optimiser.lr == 2e-4
    assert recipe.training.precision == "float32"
    assert recipe.simulator.families == ("square", "hexagonal")
    assert recipe.early_stopping.min_delta == 1.0
    assert recipe.title == "two words"


def test_smoke_comes_before_set():
    assert load_recipe("atoms", smoke=True).data.batch == 4
    assert load_recipe("atoms", smoke=True, overrides=["data.batch=2"]).data.batch == 2


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.bath=3", "data.bath"),
        ("data.batch=0", "data.batch"),
        ("data.batch=many", "data.batch"),
        ("data.batch=1.5", "data.batch"),
        ("optimiser.lr=nan", "optimiser.lr"),
        ("optimiser.lr=-1", "optimiser.lr"),
        ("training.precision=float16", "training.precision"),
        ("task=galaxies", "task"),
        ("colour=red", "colour"),
        ("data.crop_px=100", "multiple of the network's stride 16"),
        ("simulator.spacing_min_px=40", "spacing_min_px 40.0 is above"),
        ('simulator.families=["cubic"]', r"unknown families \['cubic'\]"),
        ("data=3", "data"),
        ("network.kind=unet", "network.*'atoms', 'atomid'"),
        ("schedule.kind=linear", "schedule.*'plateau', 'step', 'cosine'"),
        ("schedule.bend=3", r"schedule\..*bend"),
        ("optimiser.kind=sgd", "optimiser.kind"),
        ("data.batch", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
    ],
)
def test_what_is_refused_is_named(override, named):
    with pytest.raises(ParameterError, match=named):
        load_recipe("atoms", overrides=[override])


def test_unknown_recipes_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"'atom'.*atoms"):
        load_recipe("atom")
    with pytest.raises(ParameterError, match="not found"):
        load_recipe(str(tmp_path / "absent.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"broken\.toml: not valid TOML"):
        load_recipe(str(broken))
    with pytest.raises(ParameterError, match="not found"):
        read_recipe(tmp_path / "recipe.toml")
    no_smoke = tmp_path / "plain.toml"
    no_smoke.write_text(to_toml(load_recipe("atoms")), encoding="utf-8")
    with pytest.raises(ParameterError, match=r"\[smoke\]"):
        load_recipe(str(no_smoke), smoke=True)


def test_another_kind_starts_its_table_anew():
    """What the old kind held is no part of the new one, whatever the order of the overrides."""
    overrides = ["schedule.lr_min=1e-5", "schedule.kind=cosine", "network.kind=atoms", "optimiser.kind=adamw"]
    recipe = load_recipe("atomid", overrides=overrides)
    assert recipe.schedule == CosineOptions(lr_min=1e-5)
    assert recipe.network == AtomsNetworkOptions()
    assert recipe.optimiser.kind == "adamw"
    assert recipe.optimiser.weight_decay == load_recipe("atomid").optimiser.weight_decay
    same = load_recipe("atomid", overrides=["schedule.kind=step", "schedule.every_epochs=8"])
    assert same.schedule == StepOptions(factor=load_recipe("atomid").schedule.factor, every_epochs=8)


def test_a_cosine_needs_a_length_above_its_warm_up_and_a_floor_below_its_rate():
    with pytest.raises(ParameterError, match=r"warmup_epochs 60 is not below training\.epochs 60"):
        load_recipe("atoms", overrides=["schedule.kind=cosine", "schedule.warmup_epochs=60", "training.epochs=60"])
    with pytest.raises(ParameterError, match=r"lr_min 0\.1 is above optimiser\.lr"):
        load_recipe("atoms", overrides=["schedule.kind=cosine", "schedule.lr_min=0.1"])


def test_recipes_of_older_runs_stay_readable(tmp_path):
    """Before there was a choice there was one network and a table [plateau]."""
    file = tmp_path / "recipe.toml"
    new = load_recipe("atoms", overrides=["schedule.kind=plateau", "schedule.patience_epochs=7"])
    text = to_toml(new).replace('[schedule]\nkind = "plateau"', "[plateau]")
    file.write_text(text.replace('kind = "atoms"\n', ""), encoding="utf-8")
    assert "[plateau]" in file.read_text(encoding="utf-8")
    assert "schedule" not in file.read_text(encoding="utf-8")
    assert read_recipe(file) == new
    assert load_recipe(str(file), overrides=["plateau.patience_epochs=9"]).schedule.patience_epochs == 9


def test_the_reference_is_the_printed_one():
    """PolyU thesis, method chapter: rate 1e-3, a tenth every 50 epochs, 200 epochs, lambda 0.1."""
    recipe = load_recipe("atomid")
    assert (recipe.optimiser.lr, recipe.training.epochs, recipe.loss.confidence_weight) == (1e-3, 200, 0.1)
    assert recipe.schedule == StepOptions(factor=0.1, every_epochs=50)
    assert recipe.network == AtomidNetworkOptions(base_width=32, depth=4)
    assert recipe.data.crop_px == 256
    assert recipe.early_stopping.patience_epochs >= recipe.training.epochs


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("atoms").name = "other"
    assert isinstance(load_recipe("atoms"), Recipe)
