"""Make the pictures of README.md and docs: run four experiments and shrink their figures.

Fashion-MNIST is found or downloaded as in the experiments. The runs take about three minutes on two cores.
"""

import importlib
import sys
import tempfile
from pathlib import Path

from PIL import Image

from d2l_lightning.runs.cli import run_experiment

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
# The figure of each experiment's run, and the picture that is made from it.
PICTURES = {
    "kaggle_house": ("learning_curves.png", "fold_curves.png"),
    "mlp": ("predictions_concise.png", "clothes.png"),
    "label_shift": ("shares.png", "label_shift.png"),
    "search_house": ("parameters.png", "search.png"),
}
WIDTH = 1000


def shrink(figure: Path, picture: Path) -> None:
    """Write a figure as a PNG file that is WIDTH pixels wide and has a palette of 256 colours."""
    with Image.open(figure) as image:
        size = (WIDTH, round(image.height * WIDTH / image.width))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    # The default method would give similar curves one colour.
    small.quantize(256, Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)


def main() -> None:
    """Make all pictures."""
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        for experiment, (figure, picture) in PICTURES.items():
            run_dir = Path(folder) / experiment
            module = importlib.import_module(f"experiments.{experiment}")
            run_experiment(module.main, ["--run_dir", str(run_dir)])
            shrink(run_dir / "figures" / figure, IMAGES / picture)


if __name__ == "__main__":
    main()
