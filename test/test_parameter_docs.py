"""The table of parameters, the JSON schema and the parameters file against the specs that they are made from."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema")

from drive_seg.node.parameters import all_specs  # noqa: E402
from drive_seg.node.parameters.specs import Change, OneOf, Spec  # noqa: E402
from drive_seg.node.parameters.table import (  # noqa: E402
    BEGIN,
    CAMERA,
    END,
    FACETS,
    PAGE,
    SCHEMA,
    json_schema,
    main,
    markdown_table,
    with_table,
)

SPECS = all_specs(["camera"])
# One wrong value for each type of parameter: of another type that no parameter of this type takes.
OF_ANOTHER_TYPE = {bool: 1, int: "1", float: "0.5", str: 5, list: "front"}


@pytest.fixture(scope="module")
def validator(checkout: Path) -> Any:
    schema = json.loads((checkout / SCHEMA).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def flat(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters by their full names, as rclpy reads them from the sections of a file."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def given(**parameters: Any) -> dict[str, Any]:
    return {"/**": {"ros__parameters": parameters}}


def uncommented(text: str) -> str:
    """The parameters file with its example for a camera made real."""
    lines, section = [], False
    for line in text.splitlines():
        section = line.strip() == "# camera:" or (section and line.strip().startswith("#   "))
        lines.append(line.replace("# ", "", 1) if section else line)
    return "\n".join(lines)


def test_the_files_are_what_make_docs_would_write(checkout: Path) -> None:
    page = (checkout / PAGE).read_text(encoding="utf-8")
    assert with_table(page) == page, "run make docs"
    assert json.loads((checkout / SCHEMA).read_text(encoding="utf-8")) == json_schema(), "run make docs"


def test_writing_changes_what_is_old_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("config", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / PAGE).write_text(f"before\n{BEGIN}\nOUTDATED\n{END}\nafter\n")
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / PAGE).read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "OUTDATED" not in text
    assert markdown_table() in text
    assert json.loads((tmp_path / SCHEMA).read_text()) == json_schema()
    capsys.readouterr()
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "page and schema are up to date\n"
    with pytest.raises(ValueError, match="lacks the line '<!-- End"):
        with_table(BEGIN)


def test_the_table_has_a_row_for_each_parameter_with_its_default() -> None:
    header, line, *rows = markdown_table().splitlines()
    columns = header.count("|")
    assert {row.replace("\\|", "").count("|") for row in (line, *rows)} == {columns}
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    assert list(cells) == [f"`{name.replace('camera.', '<cam>.', 1)}`" for name in SPECS]
    assert cells["`overlay_alpha`"][:4] == ["double", "`0.5`", "0.0 to 1.0", "at any time"]
    assert cells["`cameras`"][:4] == ["string[]", "`[camera]`", "", "never"]
    assert cells["`<cam>.transport`"][:4] == ["string", "`raw`", "`raw`, `compressed`", "unconfigured"]
    # Markdown would take a bare <...> for a tag and show nothing.
    assert all(row.count("`") % 2 == 0 and "<" not in "".join(row.split("`")[::2]) for row in rows)


def test_the_parameters_file_holds_the_defaults_and_the_schema_takes_it(checkout: Path, validator: Any) -> None:
    text = (checkout / "config" / "segmentation.param.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={Path(SCHEMA).name}"
    for document in (yaml.safe_load(text), yaml.safe_load(uncommented(text))):
        validator.validate(document)
    values = flat(yaml.safe_load(uncommented(text))["/**"]["ros__parameters"])
    assert {name: value for name, value in values.items() if name in SPECS} == values
    assert {name: SPECS[name].default for name in values} == values
    assert set(SPECS) - set(values) == set()


@pytest.mark.parametrize(
    "document",
    [
        {"segmentation_node": {"ros__parameters": {"model": "m"}}},
        {"/car/**": {"ros__parameters": {"model": "m"}}, "/other": {"ros__parameters": {"device": "cuda:1"}}},
        {"car": {"segmentation_node": {"ros__parameters": {"model": "m"}}}},
        given(cameras=["front", "rear_left"], front={"transport": "compressed"}, rear_left={"image_topic": "/a/b"}),
        given(**{"front.transport": "compressed", "use_sim_time": True}),
        given(qos_overrides={"/front/image_raw": {"subscription": {"depth": 2}}}),
        given(input_size=[360, 640], max_image_age_ms=200, device="cuda"),
    ],
)
def test_the_schema_takes_what_the_node_takes(validator: Any, document: Any) -> None:
    validator.validate(document)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (given(modle="x"), "'x' is not of type 'object'"),
        (given(front={"transprt": "raw"}), "'transprt' was unexpected"),
        (given(front={"transport": "zip"}), "'zip' is not one of"),
        (given(**{"front.transport": "zip"}), "'zip' is not one of"),
        (given(**{"front.transprt": "raw"}), "does not match any"),
        (given(overlay_alpha=1.5), "1.5 is greater than the maximum"),
        (given(threads=-1), "-1 is less than the minimum"),
        (given(cameras=[]), "should be non-empty"),
        (given(cameras=["front", "front"]), "non-unique"),
        (given(cameras=["front camera"]), "does not match"),
        (given(device="gpu"), "'gpu' does not match"),
        (given(model=" "), "does not match"),
        (given(degrade_order=["sleep"]), "'sleep' is not one of"),
        (given(input_size=[640]), "is not valid under any"),
        (given(input_size=[4, 640]), "is not valid under any"),
        (given(camera={"image_topic": "a b"}), "does not match"),
        (given(camera={"mounting": [0.0, 0.0, 1.5]}), "is not valid under any"),
        (given(drivable_classes=[]), "should be non-empty"),
        (given(grid_range_m=[30.0]), "is too short"),
        (given(grid_range_m=[30.0, -1.0]), "less than the minimum"),
        ({"/**": {"ros_parameters": {"model": "m"}}}, "'m' is not of type 'object'"),
        ({"/**": {}}, "should be non-empty"),
        ({}, "should be non-empty"),
    ],
)
def test_the_schema_refuses(validator: Any, document: Any, words: str) -> None:
    with pytest.raises(jsonschema.ValidationError) as refusal:
        validator.validate(document)
    assert words in refusal.value.message


@pytest.mark.parametrize("name", SPECS)
def test_the_schema_refuses_of_each_parameter_what_its_spec_refuses(validator: Any, name: str) -> None:
    spec = SPECS[name]
    wrong: list[Any] = [OF_ANOTHER_TYPE[type(spec.default)]]
    if spec.span:
        wrong += [type(spec.default)(spec.span[0] - 1), type(spec.default)(spec.span[1] + 1)]
    if isinstance(spec.check, OneOf):
        wrong += ["none of them", spec.check.choices[0].upper()]
    assert validator.is_valid(given(**{name: spec.default}))
    for value in wrong:
        assert spec.problem(value), value
        assert not validator.is_valid(given(**{name: value})), value


def test_only_parameters_that_there_are_have_facets() -> None:
    assert set(FACETS) <= set(all_specs([CAMERA]))


def test_the_schema_tells_what_an_editor_shows() -> None:
    parameters = json_schema()["$defs"]["parameters"]["properties"]
    threads = parameters["threads"]
    assert (threads["type"], threads["default"], threads["minimum"], threads["maximum"]) == ("integer", 0, 0, 1024)
    assert parameters["input_reliability"]["enum"] == ["best_effort", "reliable"]
    assert all(len(schema["description"]) > 10 for schema in parameters.values() if "type" in schema)
    assert "at any time" in parameters["overlay_alpha"]["description"]
    # It depends on the camera's name, so no one value is it.
    assert "default" not in json_schema()["$defs"]["camera"]["properties"]["image_topic"]


def test_a_parameter_in_a_section_may_be_written_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from drive_seg.node.parameters import table as parameter_table

    specs = {"ground.cell_m": Spec(0.2, "size | of a <cell>", Change.NEVER, (0.01, 10.0))}
    monkeypatch.setattr(parameter_table, "NODE_SPECS", specs)
    row = parameter_table.markdown_table().splitlines()[2]
    assert row == "| `ground.cell_m` | double | `0.2` | 0.01 to 10.0 | never | size \\| of a `<cell>` |"
    validator = jsonschema.Draft202012Validator(parameter_table.json_schema())
    assert validator.is_valid(given(ground={"cell_m": 0.5}))
    assert validator.is_valid(given(**{"ground.cell_m": 0.5}))
    for bad in (given(ground={"cell_m": 50.0}), given(ground={"cell": 0.5}), given(**{"ground.cell": 0.5})):
        assert not validator.is_valid(bad)
