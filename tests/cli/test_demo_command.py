from pathlib import Path


def test_the_demo_goes_the_whole_way_and_names_files_that_are_there(cli, tmp_path):
    short = ("train.max_steps=2", "train.workers=0", "input.size=32", "input.sampling.frames=2")
    flags = [word for setting in short for word in ("--set", setting)]
    result = cli("demo", "--dir", "drawn", *flags, cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    for command in ("prepare --dataset demo --data-root drawn", "finetune", "infer", "export"):
        assert f"$ ecstfl {command}" in result.stdout
    assert "same class for 8 of 8 samples" in result.stdout
    named = [Path(line.split()[0]) for line in result.stdout.partition("Worth opening:\n")[2].splitlines()[:6]]
    assert [path.name for path in named] == [
        "curves.png",
        "confusion.png",
        "metrics.json",
        "predictions.csv",
        "best.safetensors",
        "best.onnx",
    ]
    assert all((tmp_path / path).stat().st_size > 0 for path in named)
    # What the last line promises: the model and the clips are found without being named.
    again = cli("infer", "--device", "cpu", "-j", "0", cwd=tmp_path)
    assert again.exit_code == 0, again.stderr
    assert "WAR" in again.stdout
