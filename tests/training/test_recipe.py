"""Recipes: what is read, what is refused, what is kept."""

import pytest
from pydantic import ValidationError

from spm_runtime.errors import ParameterError
from spm_training.recipe import Recipe, load_recipe, read_recipe, recipe_names, to_toml


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
        ("task=defects", "task"),
        ("colour=red", "colour"),
        ("data.crop_px=100", "multiple of the network's stride 16"),
        ("simulator.spacing_min_px=40", "spacing_min_px 40.0 is above"),
        ('simulator.families=["cubic"]', r"unknown families \['cubic'\]"),
        ("data=3", "data"),
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


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        load_recipe("atoms").name = "other"
    assert isinstance(load_recipe("atoms"), Recipe)
