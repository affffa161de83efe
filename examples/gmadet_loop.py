"""Scores for the candidates of gmadet's runs: python gmadet_loop.py gmadet_results/ model.onnx

Every table NAME_candidates.dat below the folder gets NAME_scored.dat beside it: the same rows with P_True,
real, undecided and reason, the best first. Cutouts are made of the difference image that the table names, beside it.
"""

import sys
from pathlib import Path

import numpy as np
from astropy.table import Table

from otrain_core.classify import Classifier
from otrain_core.classify.new_candidates import cut_candidates


def main(results, model_path):
    classifier = Classifier.load(model_path)
    for path in sorted(Path(results).rglob("*_candidates.dat")):
        table = Table.read(path, format="ascii.commented_header")
        columns = {"P_True": np.full(len(table), np.nan), "real": np.zeros(len(table), bool)}
        columns |= {"undecided": np.ones(len(table), bool), "reason": np.full(len(table), "outside the image", object)}
        for name in np.unique(table["filenames"]):
            rows = np.flatnonzero(table["filenames"] == name)
            positions = {"Xpos": table["Xpos"][rows], "Ypos": table["Ypos"][rows], "id": rows}
            image = path.parent / Path(str(name)).name  # results may have been moved since
            seeing = float(np.median(table["FWHMPSF"][rows]))
            cutouts, cut = cut_candidates(image, positions, size=classifier.size, psf=seeing)
            found = classifier.classify(cutouts)
            rows = cut["candid"].astype(int)
            for column, key in (("P_True", "probability"), ("real", "real"), ("undecided", "undecided")):
                columns[column][rows] = found[key]
            columns["reason"][rows] = found["reason"]
        for name, values in columns.items():
            table[name] = values.astype(str) if values.dtype == object else values
        table.sort("P_True", reverse=True)
        scored = path.with_name(path.name.replace("_candidates.dat", "_scored.dat"))
        table.write(scored, format="ascii.commented_header", overwrite=True)
        print(f"{scored}: {len(table)} candidates, {int(np.sum(columns['real'] & ~columns['undecided']))} real")


if __name__ == "__main__":
    main(*sys.argv[1:])
