import json

from PIL import Image

from retroclip.pretraining import write_figures
from retroclip.training.loop import History
from retroclip.training.pretraining import FormalClipRecipe


def test_the_record_of_a_run(tiny_model, tmp_path, make_image):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        make_image(number).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(f"caption {number}")
    recipe = FormalClipRecipe(
        kind="formal-clip", model="any", data=tmp_path, work=tmp_path, out=tiny_model(), steps=2,
        sources=[{"name": "a", "file": "a", "share": 1}], figure={"file": "photos", "count": 2},
    )  # fmt: skip
    rows = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": 1.123456789}]
    write_figures(recipe, History(rows), tmp_path / "figures", "small")
    assert json.loads((tmp_path / "figures" / "small.json").read_text())[1]["loss"] == 1.12346
    assert all(Image.open(tmp_path / "figures" / name).width > 100 for name in ("small.png", "small-pairs.png"))
