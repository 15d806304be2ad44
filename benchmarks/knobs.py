"""What guidance, temperature and seeds do: a prompt drawn at several settings, each with the same seeds.

    python benchmarks/knobs.py --prompt "a photo of a red car" --guidance 1 3 5 --temperature 0.25 0.5 1

Each pair of guidance and temperature is a row, each seed a column.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure

from janus import Janus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a folder or hub id; the embedded model if left out")
    parser.add_argument("--prompt", default="a photo of a red car and a blue cup")
    parser.add_argument("--guidance", nargs="+", type=float, default=[1, 2, 5])
    parser.add_argument("--temperature", nargs="+", type=float, default=[1])
    parser.add_argument("--seeds", type=int, default=8, help="how many, from 0 on")
    parser.add_argument("--out", type=Path, default=Path("knobs.png"))
    options = parser.parse_args()
    model = Janus.from_pretrained(options.model)
    settings = list(product(options.guidance, options.temperature))
    figure = Figure(figsize=(1.1 * options.seeds + 1.2, 1.15 * len(settings) + 0.4), layout="constrained")
    figure.suptitle(options.prompt, fontsize=9)
    panels = figure.subplots(len(settings), options.seeds, squeeze=False)
    for row, (guidance, temperature) in zip(panels, settings, strict=True):
        pictures = model.generate_images(
            options.prompt, n=options.seeds, seed=0, guidance=guidance, temperature=temperature
        )
        for panel, picture in zip(row, pictures, strict=True):
            panel.imshow(picture)
            panel.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"guidance {guidance:g}\ntemperature {temperature:g}", fontsize=7)
    for seed, panel in enumerate(panels[0]):
        panel.set_title(f"seed {seed}", fontsize=7)
    figure.savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()
