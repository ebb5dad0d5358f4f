"""The registry: built-ins and plugins by one lookup; a bad plugin fails only those who ask for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ecstfl_cli import registry
from ecstfl_cli.engine.component_state import component_states, load_problem
from ecstfl_cli.errors import RegistryError

FOCAL = "class Focal:\n    pairwise = False\n"
LABEL_MAP = "from ecstfl_cli.api import LabelMap\ntwo = LabelMap('two', ('happy', 'sad'))\n"


def state_of(name: str) -> tuple[str, str]:
    """State and reason of the only component of that name."""
    (found,) = [s for s in component_states() if s.name == name]
    return found.state, found.reason


# --- loading --------------------------------------------------------------------------------------------------------


def test_a_plugin_component_loads_by_its_name(fake_distribution) -> None:
    fake_distribution("ecstfl-focal", {"losses": {"focal": "focal_mod:Focal"}}, {"focal_mod.py": FOCAL})
    assert registry.load("losses", "focal").__name__ == "Focal"


def test_builtin_components_come_by_the_same_lookup() -> None:
    entry = registry.find("losses", "ec_stfl")
    assert entry.distribution == "ecstfl"
    assert registry.load("label_maps", "dfew").names[0] == "happy"


def test_an_object_inside_a_package_loads(fake_distribution) -> None:
    modules = {"deep_plug/__init__.py": "", "deep_plug/maps/two.py": LABEL_MAP}
    fake_distribution("deep", {"label_maps": {"two": "deep_plug.maps.two:two"}}, modules)
    assert state_of("two") == ("ok", "")
    assert registry.load("label_maps", "two").names == ("happy", "sad")


def test_a_family_serves_every_name_behind_its_prefix(fake_distribution) -> None:
    source = "def build(name, num_classes, width=1):\n    return name, num_classes, width\n"
    fake_distribution("zoo", {"backbones": {"zoo/": "zoo_mod:build"}}, {"zoo_mod.py": source})
    assert registry.load("backbones", "zoo/tiny_3d")(7, width=2) == ("tiny_3d", 7, 2)
    assert registry.load("backbones", "zoo:zoo/a/b")(3) == ("a/b", 3, 1)
    assert registry.load("backbones", "zoo/hub:org/x")(3) == ("hub:org/x", 3, 1)
    with pytest.raises(RegistryError, match="Did you mean 'zoo/NAME'"):
        registry.find("backbones", "zoo/")


# --- listing imports nothing ----------------------------------------------------------------------------------------


def test_listing_imports_no_plugin(fake_distribution, tmp_path: Path) -> None:
    canary = tmp_path / "imported"
    source = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n{FOCAL}"
    modules = {"canary_plug/__init__.py": source, "canary_plug/losses.py": source}
    fake_distribution("canary", {"losses": {"tweet": "canary_plug.losses:Focal"}}, modules)
    assert "tweet" in registry.index("losses")
    assert registry.find("losses", "tweet").version == "1.0"
    assert state_of("tweet") == ("ok", "")
    assert not canary.exists()
    assert "canary_plug" not in sys.modules
    registry.load("losses", "tweet")
    assert canary.exists()


# --- broken plugins -------------------------------------------------------------------------------------------------

BROKEN = {
    "syntax error": ("def build(:\n    pass\n", "Focal", "SyntaxError", "SyntaxError: "),
    "missing package": (
        "import no_such_package_xyz\n" + FOCAL,
        "Focal",
        "no module 'no_such_package_xyz'",
        "No module",
    ),
    "raise at import": ("raise RuntimeError('needs a licence')\n", "Focal", "RuntimeError('needs a", "needs a licence"),
    "missing attribute": (FOCAL, "Vocal", "has no 'Vocal'", "AttributeError"),
    "missing module": (None, "Focal", "there is no module", "ModuleNotFoundError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_shown_and_fails_only_who_asks_for_it(case: str, fake_distribution) -> None:
    source, attribute, seen_statically, seen_on_load = BROKEN[case]
    fake_distribution(
        "focal", {"losses": {"focal": f"focal_mod:{attribute}"}}, {"focal_mod.py": source} if source else {}
    )
    state, reason = state_of("focal")
    assert state == "broken"
    assert seen_statically in reason
    with pytest.raises(RegistryError) as error:
        registry.load("losses", "focal")
    assert "loss 'focal' of focal 1.0 cannot be loaded" in error.value.message
    assert seen_on_load in error.value.message
    assert f"focal_mod:{attribute}" in error.value.hint
    assert registry.load("losses", "cross_entropy")
    assert {s.state for s in component_states("label_maps")} == {"ok"}


def test_a_plugin_that_exits_at_import_does_not_end_the_program(fake_distribution) -> None:
    fake_distribution(
        "quitter", {"losses": {"quit": "quitter_mod:x"}}, {"quitter_mod.py": "import sys\nsys.exit(3)\nx = 1\n"}
    )
    with pytest.raises(RegistryError, match="SystemExit: 3"):
        registry.load("losses", "quit")


def test_a_missing_dependency_is_named_with_a_remedy(fake_distribution) -> None:
    source = "def f():\n    pass\ntry:\n    import no_such_package_xyz\nfinally:\n    pass\n"
    fake_distribution("needy", {"losses": {"needy": "needy_mod:f"}}, {"needy_mod.py": source})
    with pytest.raises(RegistryError) as error:
        registry.load("losses", "needy")
    assert "Install the package that provides 'no_such_package_xyz'" in error.value.hint


def test_a_broken_package_breaks_the_modules_inside_it(fake_distribution) -> None:
    modules = {"half_plug/__init__.py": "raise ImportError('no')\n", "half_plug/good.py": FOCAL}
    fake_distribution("half", {"losses": {"half": "half_plug.good:Focal"}}, modules)
    assert state_of("half") == ("broken", "raises ImportError('no') (__init__.py, line 1)")


@pytest.mark.parametrize("target", ["no colon here", "a..b:", "mod:f [extra"])
def test_a_declaration_that_is_no_reference_is_broken(target: str, fake_distribution) -> None:
    fake_distribution("odd", {"losses": {"odd": target}})
    assert state_of("odd")[0] == "broken"
    with pytest.raises(RegistryError, match="cannot be loaded"):
        registry.load("losses", "odd")


@pytest.mark.parametrize(
    "source",
    [
        "from ecstfl_cli.api import *\n",
        "def __getattr__(name):\n    return print\n",
        "globals()['Focal'] = print\n",
        "try:\n    import no_such_package_xyz\nexcept ImportError:\n    pass\nif True:\n    def Focal(): ...\n",
        "import typing\nif typing.TYPE_CHECKING:\n    import no_such_package_xyz\nFocal = 1\n",
        "if False:\n    raise RuntimeError\nimport os as Focal\n",
        "for Focal in (print,):\n    pass\n",
        "class Focal:\n    pattern = '\\d'\n",
        "def _setup():\n    global Focal\n    Focal = print\n_setup()\n",
        "import sys\nsys.path.append('/somewhere')\nimport no_such_package_xyz\nFocal = 1\n",
    ],
)
def test_what_the_source_cannot_tell_counts_as_ok(source: str, fake_distribution) -> None:
    fake_distribution("maybe", {"losses": {"maybe": "maybe_mod:Focal"}}, {"maybe_mod.py": source})
    assert state_of("maybe") == ("ok", "")


def test_a_name_bound_only_inside_a_function_is_missing(fake_distribution) -> None:
    source = "class Other:\n    def Focal(self):\n        Focal = 1\n"
    fake_distribution("inner", {"losses": {"inner": "inner_mod:Focal"}}, {"inner_mod.py": source})
    assert state_of("inner") == ("broken", "inner_mod has no 'Focal'")


def test_an_editable_install_is_found(fake_distribution, tmp_path: Path) -> None:
    """Editable installs put a finder on `sys.meta_path` that knows the checkout's place."""
    checkout = tmp_path / "checkout" / "edit_plug"
    checkout.mkdir(parents=True)
    (checkout / "__init__.py").write_text("", encoding="utf-8")
    (checkout / "good.py").write_text(FOCAL, encoding="utf-8")
    fake_distribution("edit", {"losses": {"good": "edit_plug.good:Focal", "gone": "edit_plug.gone:Focal"}})

    class Finder:
        @staticmethod
        def find_spec(name, _path=None, _target=None):
            from importlib.util import spec_from_file_location

            if name == "edit_plug":
                return spec_from_file_location(
                    name, checkout / "__init__.py", submodule_search_locations=[str(checkout)]
                )
            return None

    sys.meta_path.append(Finder)
    try:
        assert state_of("good") == ("ok", "")
        assert state_of("gone") == ("broken", "there is no module 'edit_plug.gone'")
        assert registry.load("losses", "good").__name__ == "Focal"
    finally:
        sys.meta_path.remove(Finder)


def test_namespace_packages_are_followed(fake_distribution) -> None:
    fake_distribution("ns", {"losses": {"ns": "ns_plug.inner.mod:Focal"}}, {"ns_plug/inner/mod.py": FOCAL})
    assert state_of("ns") == ("ok", "")
    assert "ns_plug" not in sys.modules
    assert registry.load("losses", "ns").__name__ == "Focal"


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_name_that_two_distributions_declare_is_refused_naming_both(fake_distribution) -> None:
    fake_distribution("alpha", {"losses": {"focal": "alpha_mod:Focal"}}, {"alpha_mod.py": FOCAL})
    fake_distribution("beta", {"losses": {"focal": "beta_mod:Focal"}}, {"beta_mod.py": FOCAL}, version="2.1")
    with pytest.raises(RegistryError) as error:
        registry.load("losses", "focal")
    assert "alpha 1.0" in error.value.message
    assert "beta 2.1" in error.value.message
    assert "alpha:focal or beta:focal" in error.value.hint
    assert {(s.distribution, s.state, s.reason) for s in component_states("losses") if s.name == "focal"} == {
        ("alpha", "duplicate", "also in beta"),
        ("beta", "duplicate", "also in alpha"),
    }
    assert registry.load("losses", "alpha:focal").__module__ == "alpha_mod"
    assert registry.load("losses", "beta:focal").__module__ == "beta_mod"


def test_a_plugin_cannot_take_the_name_of_a_builtin(fake_distribution) -> None:
    fake_distribution("usurper", {"losses": {"ec_stfl": "usurper_mod:Focal"}}, {"usurper_mod.py": FOCAL})
    with pytest.raises(RegistryError, match=r"several distributions: ecstfl .*, usurper 1\.0"):
        registry.load("losses", "ec_stfl")
    assert registry.load("losses", "ecstfl:ec_stfl").__module__.startswith("ecstfl_cli.")
    assert registry.load("losses", "usurper:ec_stfl").__module__ == "usurper_mod"


def test_a_plugin_cannot_take_a_member_of_a_builtin_family(fake_distribution) -> None:
    fake_distribution("usurper", {"backbones": {"timm/resnet18": "usurper_mod:Focal"}}, {"usurper_mod.py": FOCAL})
    with pytest.raises(RegistryError, match="several distributions"):
        registry.find("backbones", "timm/resnet18")
    assert registry.find("backbones", "usurper:timm/resnet18").distribution == "usurper"
    assert registry.find("backbones", "timm/resnet34").distribution == "ecstfl"
    assert state_of("timm/resnet18") == ("duplicate", "also in ecstfl")


def test_one_distribution_may_name_a_member_of_its_own_family(fake_distribution) -> None:
    source = "def build(name, k):\n    return name\ndef special(k):\n    return 'special'\n"
    targets = {"zoo/": "zoo_mod:build", "zoo/special": "zoo_mod:special"}
    fake_distribution("zoo", {"backbones": targets}, {"zoo_mod.py": source})
    assert registry.load("backbones", "zoo/special")(7) == "special"
    assert registry.load("backbones", "zoo/other")(7) == "other"


@pytest.mark.parametrize("spelling", ["My_Plug.Ins", "my-plug-ins", "MY_PLUG_INS"])
def test_a_distribution_is_named_as_packaging_compares_names(spelling: str, fake_distribution) -> None:
    fake_distribution("My_Plug.Ins", {"losses": {"focal": "focal_mod:Focal"}}, {"focal_mod.py": FOCAL})
    assert registry.find("losses", f"{spelling}:focal").distribution == "My_Plug.Ins"


def test_the_same_distribution_found_twice_is_one(fake_distribution) -> None:
    for _ in range(2):
        fake_distribution("twice", {"losses": {"twice": "twice_mod:Focal"}}, {"twice_mod.py": FOCAL})
    assert state_of("twice") == ("ok", "")


def test_an_unknown_name_suggests_and_lists_what_there_is() -> None:
    with pytest.raises(RegistryError) as error:
        registry.load("losses", "ec_stlf")
    assert error.value.message == "unknown loss 'ec_stlf'"
    assert "Did you mean 'ec_stfl'" in error.value.hint
    assert "cross_entropy" in error.value.hint
    assert "`ecstfl plugins`" in error.value.hint


def test_a_known_name_of_the_wrong_distribution_says_whose_it_is() -> None:
    with pytest.raises(RegistryError, match="'ec_stfl' is declared by ecstfl"):
        registry.load("losses", "torch:ec_stfl")


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(RegistryError, match="Did you mean 'losses'"):
        registry.index("loses")


# --- damaged installations ------------------------------------------------------------------------------------------


def test_missing_metadata_does_not_hide_a_component(fake_distribution) -> None:
    modules = {"focal_mod.py": FOCAL}
    fake_distribution("bare", {"losses": {"focal": "focal_mod:Focal"}}, modules, version="0.3", metadata=False)
    entry = registry.find("losses", "bare:focal")
    assert (entry.distribution, entry.version) == ("bare", "0.3")
    assert registry.load("losses", "focal").__name__ == "Focal"


def test_an_unreadable_declaration_is_shown_and_harms_no_other(fake_distribution) -> None:
    site = fake_distribution("garbled", {"losses": {"x": "m:y"}})
    (site / "garbled-1.0.dist-info" / "entry_points.txt").write_text(
        "[ecstfl.losses]\nno equals sign\n", encoding="utf-8"
    )
    (fault,) = [s for s in component_states() if s.distribution == "garbled"]
    assert fault.state == "broken"
    assert "entry_points.txt cannot be read" in fault.reason
    assert registry.load("losses", "ec_stfl")


@pytest.mark.parametrize("content", [b"[console_scripts]\nno equals sign\n", b"\xff\xfe\x00"])
def test_a_damaged_package_of_others_is_none_of_our_business(content: bytes, fake_distribution) -> None:
    site = fake_distribution("stranger", {})
    (site / "stranger-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    assert not [s for s in component_states() if s.distribution == "stranger"]
    assert registry.load("losses", "ec_stfl")


def test_a_misspelt_group_is_shown(fake_distribution) -> None:
    fake_distribution("typo", {"loses": {"focal": "m:f"}})
    (fault,) = [s for s in component_states() if s.distribution == "typo"]
    assert fault.reason == "'focal' is in the unknown group 'ecstfl.loses'"


# --- what a component must be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "source", "problem"),
    [
        ("label_maps", "x = ['happy']", "is not an api.LabelMap (list)"),
        ("losses", "x = 3", "is not callable (int)"),
        ("datasets", "class x:\n    def recognise(self, root): ...", "has no method prepare (type)"),
        ("exporters", "class x:\n    export = run = print", ""),
        ("exporters", "class X:\n    export = run = print\nx = X()", "has no suffix (X)"),
    ],
)
def test_loading_also_looks_at_the_contract(group: str, source: str, problem: str, fake_distribution) -> None:
    fake_distribution("kind", {group: {"kind": "kind_mod:x"}}, {"kind_mod.py": source})
    assert load_problem(registry.find(group, "kind")) == problem


@pytest.mark.parametrize("entry", registry.scan()[0], ids=lambda e: f"{e.group}-{e.name}")
def test_every_installed_component_loads(entry: registry.Entry) -> None:
    assert load_problem(entry) == ""
