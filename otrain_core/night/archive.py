"""Search an archive: the scored candidates form one Parquet dataset, partitioned by night (steps `archive`, `nights`).

Each image is searched once, identified by its content: a restarted job resumes, and a copy of an image under another
name is not searched again. Every output file appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.classify.shipped import shipped_file
from otrain_core.errors import ConfigError, OtrainError
from otrain_core.io import digest, plain_values, read_json, write_json
from otrain_core.night.context import NIGHT_COLUMNS
from otrain_core.night.night import night_of
from otrain_core.night.nights import KEPT
from otrain_core.night.references import References
from otrain_core.night.search import Search, search_image
from otrain_core.plan.archive import ArchiveImage, ArchiveOptions
from otrain_core.plan.recipe import Recipe, read_recipe
from otrain_core.safe import safe_name

if TYPE_CHECKING:
    from otrain_core.classify import Classifier

log = logging.getLogger("otrain")


def archive_files(
    *, images: Sequence[Mapping[str, Any]], folder: str | Path, record: str | Path, options: ArchiveOptions
) -> None:
    """Search some images of an archive; an image that cannot be used is recorded, and the search continues.

    Parameters
    ----------
    images : sequence of mapping
        path, reference, wcs, see `otrain_core.plan.archive.ArchiveImage`.
    folder : path-like
        Folder of the archive, which gets ``candidates/night=YYYY-MM-DD/DIGEST.parquet`` and ``images/DIGEST.json``.
    record : path-like
        JSON file with the result of each image, written last.
    options : ArchiveOptions

    Raises
    ------
    ConfigError
        The model does not say how its cutouts were made, or the references cannot be used.
    OSError
        A file cannot be written, as on a full disk; finished images are kept.
    """
    archive = Archive(Path(folder), options)
    items = []
    for values in images:
        image = ArchiveImage(**values)
        items.append({"path": image.path, **archive.search(image)})
        log.info("%s: %s", image.path, items[-1].get("reason") or f"{items[-1].get('n')} candidates")
    write_json(record, {"images": items})


@dataclass
class Archive:
    """Classifier, recipe and references for the images of one job."""

    folder: Path
    options: ArchiveOptions
    classifier: Classifier = field(init=False)
    recipe: Recipe = field(init=False)
    references: References | None = field(init=False)
    made_with: str = field(init=False)

    def __post_init__(self) -> None:
        from otrain_core.classify import Classifier

        path = Path(self.options.model) if self.options.model else shipped_file()
        self.classifier = Classifier.load(path)
        recipe = read_recipe(self.classifier.about, where=str(path))
        if recipe is None:
            raise ConfigError(f"archive.model: {path}: does not say how its cutouts were made; export the model again")
        references = self.options.references
        self.references = References(references, option="archive.references") if references else None
        given = {key: getattr(self.options, key) for key in ("gain", "pixel_scale", "saturation")}
        detector = recipe.detector.model_copy(update={key: value for key, value in given.items() if value is not None})
        detect = recipe.pipeline.detect
        if self.options.both_signs:
            detect = detect.model_copy(update={"both_signs": True})
        pipeline = recipe.pipeline.model_copy(update={"detect": detect})
        self.recipe = Recipe(pipeline, detector, recipe.telescope, recipe.name)
        about = json.dumps([digest(path), self.recipe.record()], sort_keys=True)
        self.made_with = hashlib.sha256(about.encode()).hexdigest()[:16]

    def search(self, image: ArchiveImage) -> dict[str, Any]:
        """Search an image unless it was searched with this model and recipe before.

        Returns
        -------
        dict
            Entry of the image in the record of the job: status (done, refused, gone), reason or results.
        """
        try:
            content = digest(image.path)
        except FileNotFoundError:
            return {"status": "gone", "reason": f"{image.path}: no such file"}
        except OSError as error:  # no permission, or a damaged disk
            return {"status": "refused", "reason": f"{image.path}: cannot be read ({error.strerror})"}
        try:
            about = self.folder / "images" / f"{content}.json"
            if about.is_file() and (known := read_json(about)).get("made_with") == self.made_with:
                return known
            item = self._search(image, content)
        except OtrainError as error:
            return {"status": "refused", "reason": str(error)}
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the job must go on with the other images
            log.exception("%s", image.path)
            return {"status": "refused", "reason": f"{image.path}: unexpected {type(error).__name__} ({error})"}
        write_json(about, item)
        return item

    def _search(self, image: ArchiveImage, content: str) -> dict[str, Any]:
        # Archives often have the same file name in the folders of many nights: the digest makes the name unique.
        name = f"{safe_name(Path(image.path).name.split('.')[0], fallback='image')}-{content[:8]}"
        reference = image.reference or (self.references and self.references.of(image.path, image=name))
        if not reference:
            raise ConfigError(f"archive.references: {image.path} has no reference; name one")
        found = search_image(
            image.path,
            reference=reference,
            classifier=self.classifier,
            recipe=self.recipe,
            image=name,
            wcs=image.wcs,
        )
        night = night_of(found.record, Path(image.path))
        self._write(found, night, content)
        about = plain_values({key: value for key, value in found.record.items() if key in KEPT})
        return {"status": "done", "digest": content, "made_with": self.made_with, "night": night, **about}

    def _write(self, found: Search, night: str, content: str) -> None:
        """Write the candidates as one file of the dataset; no file if there are no candidates."""
        import pyarrow.parquet as parquet

        path = self.folder / "candidates" / f"night={night}" / f"{content[:32]}.parquet"
        if not len(found.table["candid"]):
            path.unlink(missing_ok=True)
            return
        temporary = self.folder / "unfinished" / f"{content[:32]}.{os.getpid()}"  # outside the dataset
        for each in (path, temporary):
            each.parent.mkdir(parents=True, exist_ok=True)
        try:
            parquet.write_table(as_arrow(found.table, digest=content), temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def as_arrow(table: Mapping[str, np.ndarray], *, digest: str) -> Any:
    """The candidates of an image as a pyarrow.Table.

    Its columns are `otrain_core.night.search.COLUMNS` without `NIGHT_COLUMNS`, which need the other images of the night,
    and ``digest``, the SHA-256 of the image file.
    """
    import pyarrow as pa

    kinds = {"f": pa.float64(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}
    columns = {name: np.asarray(values) for name, values in table.items() if name not in NIGHT_COLUMNS}
    arrays = {
        name: pa.array(values.tolist(), kinds.get(values.dtype.kind, pa.string())) for name, values in columns.items()
    }
    return pa.table(arrays | {"digest": pa.array([digest] * len(columns["candid"]), pa.string())})
